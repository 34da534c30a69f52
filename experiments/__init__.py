"""Questions put to lit-decom, each with its command, settings, results and answer."""
