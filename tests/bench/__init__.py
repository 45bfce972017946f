"""`./run bench`: how fast the parts are, each figure as a ratio to its limit or its peer within the same run.

A bench is one module in `tests/bench/benches/`; its name is the module's, with `-` for `_`. Nothing lists it: the folder
is the list. It holds a docstring, whose first line is shown, and one generator:

    def measure(place: Place) -> Generator[Sequence[Figure], None, None]:
        with place.corner() as settings:            # servers, databases and topics of its own, made now
            make_what_every_run_needs(settings)
            while True:
                place.say("draining")               # progress, to standard error
                raw, whole = drain(settings), consume(settings)
                yield [at_least("consume", whole, "events/s", 0.20, raw, "the raw drain")]

Each item is the figures of one run; the generator is asked for as many as `--runs` says and then closed, so what stands
behind `finally` and `with` is tidied up. The figures of all runs bear the same names: the bench's own, or that and a dot
before a part (`consume.duplicates`). Their medians are shown.

A ratio is always "how many times as good as what it is held against", so a figure meets its target where ratio >= target:
`at_least` divides value by peer, `at_most` divides the limit by the value, `reported` has no target. What a figure is held
against must be measured in the same run, or be a limit that the design states.

An exception means that the bench could not run: it is shown, the other benches go on, and the exit status is 1.
"""
