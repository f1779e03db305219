"""An optional package that cannot be used counts as missing, whatever is wrong with it."""

import sys

import pytest

from minimtp import extras
from minimtp.errors import UserError

FAULTS = {  # the code of a package, and the reason
    "raise ImportError('libx.so.1: cannot open shared object file')": "libx.so.1: cannot open",
    "raise OSError(5, 'Input/output error')": "Input/output error",
    "raise RuntimeError": "RuntimeError",
    "raise SystemExit(3)": "3",
    "raise ValueError('first line\\nsecond line')": "first line",
    "raise ValueError('x' * 10**6)": "xxx...",
    "import a_package_that_is_not_installed": "a_package_that_is_not_installed",
    "this is no Python": "invalid syntax",
    "x = 1": "has no Tokenizer",
    "import sys; sys.modules['tokenizers'] = None": "has no Tokenizer",
    "import warnings; warnings.warn('odd', RuntimeWarning); raise KeyError('key')": "key",
    "import sys; print('noise', file=sys.stderr); raise MemoryError": "MemoryError",
}


@pytest.fixture
def package(tmp_path, monkeypatch):
    """package(code) installs a package `tokenizers` with this code."""

    def install(code):
        monkeypatch.delitem(sys.modules, "tokenizers", raising=False)
        monkeypatch.syspath_prepend(tmp_path)
        (tmp_path / "tokenizers.py").write_text(code)

    yield install
    for name in [name for name in sys.modules if name.partition(".")[0] == "tokenizers"]:
        monkeypatch.delitem(sys.modules, name)


@pytest.mark.parametrize("code", FAULTS, ids=lambda code: code[:40])
def test_a_package_with_any_fault_counts_as_missing_with_a_reason_of_one_line(package, capfd, code):
    package(code)
    found, reason = extras.find("tokenizers")
    assert found is None
    assert reason.startswith("cannot be used (") and FAULTS[code] in reason
    assert len(reason.splitlines()) == 1 and len(reason) < 150
    with pytest.raises(UserError) as refused:
        extras.require("tokenizers", "tokenizer.json")
    assert "pip install 'minimtp[interop]'" in str(refused.value)
    assert len(str(refused.value)) <= 300
    assert capfd.readouterr() == ("", "")


def test_a_package_that_is_not_installed_is_called_so(monkeypatch):
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.setattr(sys, "meta_path", [])
    monkeypatch.delitem(sys.modules, "tokenizers", raising=False)
    assert extras.find("tokenizers") == (None, "is not installed")
    with pytest.raises(UserError, match="needs the package tokenizers, which is not installed"):
        extras.require("tokenizers", "a file")


def test_a_usable_package_is_returned(package):
    package("class Tokenizer: pass")
    found, reason = extras.find("tokenizers")
    assert found is sys.modules["tokenizers"] and reason == ""


def test_ctrl_c_in_an_import_is_not_an_unusable_package(package):
    package("raise KeyboardInterrupt")
    with pytest.raises(KeyboardInterrupt):
        extras.find("tokenizers")
    package("try: raise KeyboardInterrupt\nexcept BaseException: raise ImportError('failed')")
    with pytest.raises(KeyboardInterrupt):
        extras.find("tokenizers")
