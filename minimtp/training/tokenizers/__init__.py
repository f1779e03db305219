"""Text to tokens and back. Begin with tokenizer.py.

tokenizer.py        the tokenizer that a checkpoint or a user names
byte_tokenizer.py   the built-in tokenizer: token = byte
file_tokenizer.py   byte-level BPE, applied so that text survives
content.py          the form of its files, and settings that would change the text
cuts.py             where a long text can be cut so that its tokens stay the same
spellings.py        how names of tokens spell text
"""
