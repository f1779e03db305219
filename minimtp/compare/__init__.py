"""The comparison: train the configurations, decode with them, and put them side by side.

    standard            a plain transformer
    mtp                 the same with prediction heads, which draft
    mtp_qat_int4        the same, trained through int4 rounding in its last part, then packed
    mtp_int4_rounded    the second one, rounded to int4 after training, for contrast

**Equal training.** One stem is trained while the learning rate is constant. From its checkpoint
each configuration runs the decay phase, on the same batches and with the same number of tokens in
all. That saves two stems, and the heads and the rounding are the only differences. In the stem the
heads are detached: its trunk is, bit for bit, the trunk of training without heads, so `standard` is
exactly what `minimtp train` makes of the preset. During the decay the head losses also update the
trunk, and the third configuration trains through the rounding: starting the rounding with the decay
loses the least quality (arXiv 2509.22935).

**Equal decoding.** All configurations decode with the same runtime and kernels, alternating prompt
by prompt (see bench/interleaved.py). The draft depth of each configuration is chosen on training
text. The results are from held-out text.

A comparison can be interrupted: the same command resumes it.

    run.py              the whole comparison, in a folder that can be resumed
    configurations.py   what is trained
    measurement.py      what is measured
    result_cache.py     finished measurements on disk
    claims.py           published claims, held against the measurements
    report.py           the tables
    plot.py             the figure
"""
