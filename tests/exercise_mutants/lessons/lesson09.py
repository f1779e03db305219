"""Solutions of lesson 9: the sums of a group, the steps of q4_0, and the groups of a panel."""

from tests.exercise_mutants import Solutions, changed

EXERCISES = {}

SUMS = """
def group_sums(codes, packed):
    low, high = packed & 15, packed >> 4
    weights = np.concatenate([low, high], axis=-1).astype(np.int32) - 8
    inputs = codes.reshape(len(codes), -1, 32).astype(np.int32)
    return np.einsum("tgk,ngk->tng", inputs, weights)
"""

OFFSET = """
def group_sums(codes, packed):
    rows, groups = len(codes), codes.shape[1] // 32
    sums = np.zeros((rows, len(packed), groups), np.int32)
    for t in range(rows):
        for g in range(groups):
            q = codes[t, 32 * g : 32 * g + 32].astype(np.int32)
            low, high = packed[:, g] & 15, packed[:, g] >> 4
            sums[t, :, g] = low @ q[:16] + high @ q[16:] - 8 * q.sum()
    return sums
"""

ONE_BY_ONE = """
def group_sums(codes, packed):
    outputs, groups, _ = packed.shape
    sums = np.zeros((len(codes), outputs, groups), np.int32)
    for t in range(len(codes)):
        for n in range(outputs):
            for g in range(groups):
                total = 0
                for j in range(16):
                    byte = int(packed[n, g, j])
                    total += (byte % 16 - 8) * int(codes[t, 32 * g + j])
                    total += (byte // 16 - 8) * int(codes[t, 32 * g + 16 + j])
                sums[t, n, g] = total
    return sums
"""

SHORTS = """
def group_sums(codes, packed):
    weights = np.concatenate([packed & 15, packed >> 4], axis=-1).astype(np.int16)
    inputs = codes.reshape(len(codes), 1, -1, 32).astype(np.int16)
    sums = (inputs * weights).sum(-1, dtype=np.int16)
    sums = sums - np.int16(8) * inputs.sum(-1, dtype=np.int16)  # modulo 2**16, and the result fits
    return sums.astype(np.int32)
"""

EXERCISES[1] = Solutions(
    right={
        "einsum": SUMS,
        "the offset is subtracted once": OFFSET,
        "one by one": ONE_BY_ONE,
        "modulo 65536": SHORTS,
    },
    wrong={
        "adjacent codes in a byte": changed(
            SUMS,
            (
                "np.concatenate([low, high], axis=-1)",
                "np.stack([low, high], axis=-1).reshape(*low.shape[:-1], 32)",
            ),
        ),
        "the halves are exchanged": changed(SUMS, ("[low, high]", "[high, low]")),
        "8 is not subtracted": changed(SUMS, (" - 8", "")),
        "8 is subtracted before it is a signed number": changed(
            SUMS, (".astype(np.int32) - 8", " - np.uint8(8)")
        ),
        "two's complement": changed(SUMS, (" - 8", "; weights -= 16 * (weights > 7)")),
        "the high half is not shifted": changed(SUMS, ("packed >> 4", "packed & 240")),
        "products of 8 bits": changed(
            ONE_BY_ONE,
            ("(byte % 16 - 8) *", "np.int8(byte % 16 - 8) *"),
            ("(byte // 16 - 8) *", "np.int8(byte // 16 - 8) *"),
            ("int(codes[t, 32 * g + j])", "codes[t, 32 * g + j]"),
            ("int(codes[t, 32 * g + 16 + j])", "codes[t, 32 * g + 16 + j]"),
        ),
        "sums of 16 bits, corrected in 32": changed(
            SHORTS,
            ("sums - ", "sums.astype(np.int32) - "),
            ("np.int16(8) * inputs.sum(-1, dtype=np.int16)", "8 * inputs.sum(-1)"),
        ),
        "the offset of one half": changed(OFFSET, ("8 * q.sum()", "8 * q[:16].sum()")),
        "the sum over all groups": changed(
            SUMS, ('"tgk,ngk->tng", inputs, weights)', '"tgk,ngk->tn", inputs, weights)[..., None]')
        ),
        "outputs before rows": changed(SUMS, ("->tng", "->ntg")),
        "integers of 64 bits": changed(SUMS, ("weights)", "weights).astype(np.int64)")),
        "floats": changed(SUMS, ("weights)", "weights).astype(np.float32)")),
        "only the first row": changed(ONE_BY_ONE, ("for t in range(len(codes))", "for t in [0]")),
    },
)

STEPS = """
def q4_0_steps(codes):
    stored = by_panel((codes + 8).astype(np.uint8))
    parts = stored.reshape(len(stored), 32, -1, 4, 2, 4)
    return parts[..., 0, :] | parts[..., 1, :] << 4
"""

BYTE_BY_BYTE = """
def q4_0_steps(codes):
    panels = by_panel(codes).astype(int) + 8
    packed = np.zeros((*panels.shape[:2], codes.shape[1] // 32, 4, 4), np.uint8)
    for step in range(4):
        for b in range(4):
            low, high = 8 * step + b, 8 * step + 4 + b
            packed[..., step, b] = panels[..., low::32] + 16 * panels[..., high::32]
    return packed
"""

EXERCISES[2] = Solutions(
    right={"by reshaping": STEPS, "byte by byte": BYTE_BY_BYTE},
    wrong={
        "the halves of a byte are exchanged": changed(
            STEPS,
            (
                "parts[..., 0, :] | parts[..., 1, :] << 4",
                "parts[..., 1, :] | parts[..., 0, :] << 4",
            ),
        ),
        "the codes are changed": changed(
            STEPS, ("(codes + 8).astype(np.uint8)", "np.add(codes, 8, out=codes).astype(np.uint8)")
        ),
        "no 8 is added": changed(STEPS, ("codes + 8", "codes & 15")),
        "adjacent codes in a byte": changed(
            STEPS,
            ("4, 2, 4)", "4, 4, 2)"),
            ("[..., 0, :]", "[..., 0]"),
            ("[..., 1, :]", "[..., 1]"),
        ),
        "ggml's order": changed(
            BYTE_BY_BYTE, ("8 * step + b, 8 * step + 4 + b", "4 * step + b, 16 + 4 * step + b")
        ),
        "neighbouring inputs in neighbouring steps": changed(
            BYTE_BY_BYTE, ("8 * step + b, 8 * step + 4 + b", "8 * b + step, 8 * b + step + 4")
        ),
        "bytes and steps are exchanged": changed(
            STEPS, ("<< 4", "<< 4).swapaxes(-1, -2)"), ("parts[..., 0, :] |", "(parts[..., 0, :] |")
        ),
        "signed bytes": changed(
            STEPS, ("<< 4", "<< 4).view(np.int8)"), ("parts[..., 0, :] |", "(parts[..., 0, :] |")
        ),
        "the highest bit is lost": changed(
            BYTE_BY_BYTE, ("16 * panels[..., high::32]", "16 * (panels[..., high::32] & 7)")
        ),
    },
)

GROUPS = """
def quantized_panels(scales, packed):
    count, _, groups, steps, _ = packed.shape
    panels = aligned_zeros((count, groups * (64 + 128 * steps)))
    parts = panels.reshape(count, groups, -1)
    by_output = np.ascontiguousarray(by_panel(scales).swapaxes(1, 2).astype(np.float16))
    parts[:, :, :64] = by_output.view(np.uint8)
    parts[:, :, 64:] = packed.transpose(0, 2, 3, 1, 4).reshape(count, groups, -1)
    return panels
"""

EXERCISES[3] = Solutions(
    right={
        "through views": GROUPS,
        "output by output": """
def quantized_panels(scales, packed):
    count, outputs, groups, steps, _ = packed.shape
    size = 2 * outputs + 4 * outputs * steps
    panels = aligned_zeros((count, groups * size))
    for n, row in enumerate(scales.astype(np.float16)):
        for g in range(groups):
            start = g * size + 2 * (n % outputs)
            panels[n // outputs, start : start + 2] = row[g : g + 1].view(np.uint8)
    for n in range(outputs):
        for g in range(groups):
            for step in range(steps):
                start = g * size + 2 * outputs + 4 * (outputs * step + n)
                panels[:, start : start + 4] = packed[:, n, g, step]
    return panels
""",
    },
    wrong={
        "outputs are not adjacent": changed(
            GROUPS, ("transpose(0, 2, 3, 1, 4)", "transpose(0, 2, 1, 3, 4)")
        ),
        "bytes of an output are not adjacent": changed(
            GROUPS, ("transpose(0, 2, 3, 1, 4)", "transpose(0, 2, 3, 4, 1)")
        ),
        "steps and groups are exchanged": changed(
            GROUPS, ("transpose(0, 2, 3, 1, 4)", "transpose(0, 3, 2, 1, 4)")
        ),
        "the scales follow the steps": changed(
            GROUPS,
            ("parts[:, :, :64]", "parts[:, :, -64:]"),
            ("parts[:, :, 64:]", "parts[:, :, :-64]"),
        ),
        "all scales come first": changed(
            GROUPS,
            ("parts[:, :, :64] = by_output", "panels[:, : 64 * groups] = by_output"),
            (".view(np.uint8)", ".view(np.uint8).reshape(count, -1)"),
            ("parts[:, :, 64:] =", "panels[:, 64 * groups :] ="),
            (".reshape(count, groups, -1)\n    return", ".reshape(count, -1)\n    return"),
        ),
        "the scales of an output are adjacent": changed(
            GROUPS,
            ("by_panel(scales).swapaxes(1, 2)", "by_panel(scales).reshape(count, groups, 32)"),
        ),
        "scales are float32": changed(
            GROUPS,
            ("(64 + 128 * steps)", "(128 + 128 * steps)"),
            ("np.float16", "np.float32"),
            (":, :64]", ":, :128]"),
            (":, 64:]", ":, 128:]"),
        ),
        "padded outputs have a scale": changed(
            GROUPS,
            ("by_panel(scales).swap", "(by_panel(scales) + (by_panel(scales * 0 + 1) == 0)).swap"),
        ),
        "the bytes of a scale are exchanged": changed(GROUPS, ("np.float16", '">f2"')),
    },
)
