"""Text that anybody may have written, as it can be printed."""


def visible(text: object) -> str:
    """The text with everything that a terminal would act on, or not show, written out as Python writes it.

    Such are escape sequences, line ends, and marks that turn the direction of what follows.
    """
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in str(text))
