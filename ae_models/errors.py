"""The one error that says: the input is wrong, and this is what to do about it."""


class InputError(ValueError):
    """What a person gave (a file, a key, images) cannot be used; the message says what, where and what to do."""
