"""Libraries that speak by themselves: what they find wrong is said in a sentence of ours."""

import logging


def quiet_libraries() -> None:
    """No bars and no logs of diffusers and transformers in this process; they are imported for what needs them alone."""
    import diffusers
    import transformers

    for library in (diffusers, transformers):
        library.utils.logging.disable_progress_bar()
        library.utils.logging.set_verbosity(logging.CRITICAL)
