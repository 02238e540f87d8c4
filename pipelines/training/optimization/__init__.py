"""How weights move: optimisers, their groups of parameters, schedules, and a moving average."""
