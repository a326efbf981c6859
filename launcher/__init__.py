"""The rooms behind b4m.py: environments, real ComfyUIs, the demo and the tests.

Two stages. What b4m.py starts is standard library only: it reads the command line (`commands`) and makes the launcher's own
small environment (`bootstrap`). Everything else goes on inside that environment (`python -m launcher`, `actions`), with the
libraries of requirements-launcher.txt. The large environments, with PyTorch, are never the one that the launcher runs in, so
that each can be thrown away and made anew, on Windows too.
"""
