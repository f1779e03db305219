"""The text that a model trains on. Begin with corpus.py.

texts.py              the texts that need no files: the standard library and two books
folders.py            the text files among the user's files and folders
walk.py               the files below a folder, without the files of runs
encoding.py           the bytes of a file to text: encodings, byte order marks, line ends
tokenizer.py          text to tokens and back
byte_tokenizer.py     the built-in tokenizer: token = byte
file_tokenizer.py     byte-level BPE, applied so that text survives
tokenizer_content.py  the form of its files, and settings that would change the text
spellings.py          how names of tokens spell text
document_tokens.py    the tokens of the documents
split.py              which documents are held out
corpus.py             the tokens, split into training and validation
recorded.py           the text that a run was trained on
batches.py            the batches of a run
"""
