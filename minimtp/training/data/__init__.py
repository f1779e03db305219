"""The text that a model trains on. Begin with corpus.py. ../tokenizers/ turns it into tokens.

texts.py            the texts that need no files: the standard library and two books
folders.py          the text files among the user's files and folders
walk.py             the files below a folder, without the files of runs
encoding.py         the bytes of a file to text: encodings, byte order marks, line ends
document_tokens.py  the tokens of the documents
split.py            which documents are held out
corpus.py           the tokens, split into training and validation
recorded.py         the text that a run was trained on
batches.py          the batches of a run
"""
