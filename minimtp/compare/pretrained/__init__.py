"""The comparison on a pretrained model: `minimtp compare --from MODEL`.

What int4 costs a real model, what GPTQ and quantization-aware training win back, and how much
faster drafting and int4 decode, on code, prose, conversations and edits. A model that is trained
from scratch on bytes loses almost nothing by int4, so it cannot answer the first two questions.

    run.py              the whole comparison, in a folder that can be resumed
    sizes.py            how much is trained and measured
    texts.py            the texts: code, prose, and conversations that the model writes itself
    configurations.py   the compared configurations, and how they are made
    quality.py          nats, KL divergence and agreement, by kind of text
    measurement.py      speed and memory
    llama.py            llama.cpp on the same int4 weights
    steps.py            seconds and peak memory of each step
    claims.py           the article's claims and our targets, judged by the results
    report.py, plot.py  the tables and the figure
    schema.py           the form of compare.json
"""
