"""The rooms behind b4m.py: an environment, a real ComfyUI, the demo and the tests. Standard library only."""
