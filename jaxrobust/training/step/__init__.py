"""The compiled side of training: states, steps, members, devices, memory."""
