"""From noise to a clean latent: the noise, the experts' plan, guidance and the loop.

Import from the files: `denoise` and `plan` are the names of both a module and its function.
"""
