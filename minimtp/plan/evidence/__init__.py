"""Whether a plan can be believed, and what it says about public claims.

published.py     predicted beside published numbers (published.toml)
validation.py    predicted beside the tokens/s that `minimtp compare` measured
decoding.py      the same for `minimtp bench decode`
compared.py      their tables
claims.py        the claims of the article behind this project, judged
"""
