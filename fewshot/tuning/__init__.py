"""fewshot tune: every learner's settings are searched alike, with one budget of images, on validation classes only."""
