"""Which process runs which model of a run: this process, worker processes beside each other, or many machines."""
