"""The comparison: train the configurations, decode with them, and put them side by side.

    standard            a plain transformer
    mtp                 the same with prediction heads, which draft
    mtp_qat_int4        the same, trained with int4 rounding in the decay phase, then packed
    mtp_int4_rounded    mtp, rounded to int4 after training, for comparison

**Equal training.** One stem is trained while the learning rate is constant. Each configuration
continues from its checkpoint through the decay phase, on the same batches and with the same total
number of tokens. This saves the training of two more stems, and the heads and the rounding are the
only differences. In the stem the heads are detached, so its trunk is bit-identical to a trunk
trained without heads. `standard` is therefore the same model that `minimtp train` gives for the
preset. During the decay the head losses also update the trunk, and the third configuration trains
with rounding. Rounding that starts with the decay loses the least quality (arXiv 2509.22935).

**Equal decoding.** All configurations decode with the same code and kernels, alternating prompt by
prompt (see bench/interleaved.py). The draft depth of each configuration is chosen on training text.
The results are from held-out text.

A comparison can be interrupted: the same command resumes it.

    run.py              the whole comparison, in a folder that can be resumed
    configurations.py   the recipes and their training
    measurement.py      the measurements
    result_file.py      compare.json (schema.py: its form)
    result_cache.py     finished measurements on disk, until compare.json is written
    schema.py           the form of both files
    claims.py           published claims, compared with the measurements
    report.py           the tables
    plot.py             the figure
    pretrained/         the comparison on a pretrained model
"""
