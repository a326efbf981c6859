"""Many contents, many styles, many cards: ``python b4m.py studio plan.toml``.

    plan_file      what the file asks for, checked
    tasks          what is to be done, in which order, and how one task is done wherever it runs
    training_task, pair_task, auxiliary_task                        the three kinds of work
    cluster        the same tasks on many workers, by Dask; the only file that imports it
    library        the adapters as files, and their index           contact_sheets   every content in every style
    command        the words of the command line, and what it prints

No pair is trained: N contents and M styles are N + M trainings, and a pair is merged when it is painted.
"""
