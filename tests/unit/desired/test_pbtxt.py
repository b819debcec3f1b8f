from moorage.desired.pbtxt import Symbol, render


def test_every_form_a_config_pbtxt_needs() -> None:
    message = {
        "name": 'a "b"\n',
        "max_batch_size": 8,
        "share": 0.5,
        "on": True,
        "sizes": [1, 2],
        "kinds": [Symbol("A"), Symbol("B")],
        "batching": {"delay": 1},
        "empty": {},
        "group": [{"count": 1, "kind": Symbol("KIND_CPU")}, {"count": 2}],
    }
    assert render(message) == (
        'name: "a \\"b\\"\\n"\n'
        "max_batch_size: 8\n"
        "share: 0.5\n"
        "on: true\n"
        "sizes: [1, 2]\n"
        "kinds: [A, B]\n"
        "batching {\n  delay: 1\n}\n"
        "empty { }\n"
        "group {\n  count: 1\n  kind: KIND_CPU\n}\n"
        "group {\n  count: 2\n}\n"
    )


def test_nothing_is_nothing() -> None:
    assert render({}) == ""
