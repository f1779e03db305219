"""Solutions of lesson 9: panels, the steps of q4_0, and the groups of a panel."""

from tests.exercise_mutants import Solutions, changed

EXERCISES = {}

BY_PANEL = """
def by_panel(matrix):
    return np.pad(matrix, ((0, -len(matrix) % 32), (0, 0))).reshape(-1, 32, matrix.shape[1])
"""

COPIED = """
def by_panel(matrix):
    rows, columns = matrix.shape
    count = -(-rows // 32)
    panels = np.zeros((count, 32, columns), matrix.dtype)
    for n in range(rows):
        panels[n // 32, n % 32] = matrix[n]
    return panels
"""

EXERCISES[1] = Solutions(
    right={"np.pad": BY_PANEL, "row by row": COPIED},
    wrong={
        "one panel too many if the rows fill their panels": changed(
            COPIED, ("-(-rows // 32)", "rows // 32 + 1")
        ),
        "always one panel too many": changed(COPIED, ("-(-rows // 32)", "-(-rows // 32) + 1")),
        "the rows that do not fill a panel are dropped": changed(
            COPIED, ("-(-rows // 32)", "rows // 32"), ("range(rows)", "range(rows // 32 * 32)")
        ),
        "always float64": changed(COPIED, (", matrix.dtype)", ")")),
        "the last row is repeated": changed(BY_PANEL, ("(0, 0)))", '(0, 0)), mode="edge")')),
        "padded before the first row": changed(
            BY_PANEL, ("(0, -len(matrix) % 32)", "(-len(matrix) % 32, 0)")
        ),
        "neighbours in different panels": changed(
            COPIED, ("panels[n // 32, n % 32]", "panels[n % count, n // count]")
        ),
        "adjacent outputs are already adjacent": changed(
            COPIED, ("return panels", "return panels.swapaxes(1, 2)")
        ),
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
