"""The fastest method by size, on two CPU cores in float32; written by a command.

``attnlab bench methods --write-table`` measures every method and writes this file.
"""

# (axes of the lag weights, use): rows of (batch, time, d_model, fastest method)
FASTEST: dict[tuple[int, str], tuple[tuple[int, int, int, str], ...]] = {
    (3, "forward"): (
        (1, 8, 128, "lags"),
        (1, 32, 128, "lags"),
        (1, 128, 128, "grouped"),
        (16, 8, 128, "lags"),
        (16, 32, 128, "staged"),
        (16, 128, 128, "staged"),
    ),
    (3, "training"): (
        (1, 8, 128, "lags"),
        (1, 32, 128, "lags"),
        (1, 128, 128, "grouped"),
        (1, 512, 128, "staged"),
        (16, 8, 128, "lags"),
        (16, 32, 128, "staged"),
        (16, 128, 128, "staged"),
    ),
    (3, "frozen"): ((1, 8, 128, "lags"), (1, 32, 128, "staged"), (16, 16, 128, "staged")),
    (2, "forward"): ((16, 8, 128, "lags"), (16, 32, 128, "fft")),
    (2, "training"): ((16, 8, 128, "lags"), (16, 32, 128, "fft")),
    (2, "frozen"): ((16, 8, 128, "lags"), (16, 32, 128, "fft")),
    (1, "forward"): ((16, 512, 128, "toeplitz"), (16, 2048, 128, "fft")),
    (1, "training"): ((16, 512, 128, "toeplitz"), (16, 2048, 128, "fft")),
    (1, "frozen"): ((16, 512, 128, "toeplitz"), (16, 2048, 128, "fft")),
}
