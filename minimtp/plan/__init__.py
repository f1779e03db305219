"""`minimtp plan`: is it worth it, on which hardware, and for how many requests?

Plain functions, each with its equation. costs/ needs no array library.

    costs/           bytes, seconds of a forward pass by the roofline, tokens per round
    measured.py      seconds of a forward pass: compare.json, or a run (measure_run.py)
    serving.py       a simulation of many requests
    settings.py      the question: everything that is assumed (arrivals.py: requests from a file)
    candidates.py    the configurations that are compared
    planning.py      the answer: devices, speed, cost, break-even points
    command.py       what `minimtp plan` does with its options
    report.py        tables, and a sentence of advice
    plot.py          speed-up against the number of requests
    evidence/        predicted beside measured and published numbers, and public claims judged
"""
