"""The one error of the method: a sentence that an artist can act on."""


class B4MError(ValueError):
    """Bad input, said in one sentence: what is wrong, where, and what to do."""
