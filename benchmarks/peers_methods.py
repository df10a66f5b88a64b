"""The methods of `peers.py`: what the peers call them, with which options, in which scopes."""

# Aggregators of TorchJD by the names of keras_mtl, which differentiate by the trunk's parameters.
TORCHJD = {
    "aligned_mtl": ("AlignedMTL", {}),
    "cagrad": ("CAGrad", {"c": 0.5}),
    "config": ("ConFIG", {}),
    "dual_proj": ("DualProj", {}),
    "excess_mtl": ("ExcessMTL", {}),
    "fairgrad": ("FairGrad", {"alpha": 1.0}),
    "graddrop": ("GradDrop", {}),
    "gradvac": ("GradVac", {}),
    "imtl_g": ("IMTLG", {}),
    "mgda": ("MGDA", {}),
    "nash_mtl": ("NashMTL", {"n_tasks": None}),
    "pcd": ("PCD", {}),
    "pcgrad": ("PCGrad", {}),
    "random": ("Random", {}),
    "upgrad": ("UPGrad", {}),
}
BOTH = ("parameters", "features")
# Weightings of LibMTL with the defaults of its command line, and the gradients it has them for.
LIBMTL = {
    "cagrad": ("CAGrad", {"calpha": 0.5, "rescale": 1}, ("parameters",)),
    "graddrop": ("GradDrop", {"leak": 0.0}, ("features",)),
    "gradnorm": ("GradNorm", {"alpha": 1.5}, BOTH),
    "gradvac": ("GradVac", {"beta": 0.5}, ("parameters",)),
    "imtl_g": ("IMTL", {}, BOTH),
    "mgda": ("MGDA", {"mgda_gn": "none"}, BOTH),
    "pcgrad": ("PCGrad", {}, ("parameters",)),
}


def rows(wanted: list[tuple[str, str]]) -> list[tuple[str, str, str]]:
    """Returns what can be compared: method, scope, peer.

    Args:
        wanted: List of method and scope, `""` for any scope; empty for all methods.

    Raises:
        ValueError: No peer has a method of this name and scope.
    """
    known = [(name, "parameters", "torchjd") for name in TORCHJD]
    known += [(name, scope, "libmtl") for name, entry in LIBMTL.items() for scope in entry[2]]
    for name, scope in wanted:
        if not any(name == row[0] and scope in ("", row[1]) for row in known):
            text = f"{name}:{scope}" if scope else name
            methods = sorted({f"{row[0]}:{row[1]}" for row in known})
            raise ValueError(f"No peer has '{text}'. Expected one of {methods}.")
    return sorted(
        row
        for row in known
        if not wanted or any(row[0] == name and scope in ("", row[1]) for name, scope in wanted)
    )
