"""All protocols have one interface: a new one is a file and a name."""

from collections import Counter

from fewshot import config
from fewshot.protocols.registry import PROTOCOLS
from fewshot.records import MODEL, kind_of


def test_the_names_of_the_configuration_are_those_of_the_protocols():
    assert list(PROTOCOLS) == list(config.PROTOCOLS) == [one.name for one in PROTOCOLS.values()]


def test_each_protocol_has_a_table_of_its_own_with_columns_that_the_schema_knows():
    assert max(Counter(one.table for one in PROTOCOLS.values()).values()) == 1
    for protocol in PROTOCOLS.values():
        assert {*MODEL, "key", "kept", "model", "protocol"} <= set(protocol.columns)
        assert set(protocol.later) <= set(protocol.columns)
        assert all(map(kind_of, protocol.columns))
