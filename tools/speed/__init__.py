"""What `tools/compare_speed.py` is made of: inputs, this program, its peers, their exports, goals and tables."""
