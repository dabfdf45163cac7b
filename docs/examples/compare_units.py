"""Which units give the smaller and the truer circuit: features, or the model's own neurons?"""

import tl_circuits as tlc

model, clt = tlc.demo()
_, plt = tlc.demo(transcoder="plt")


def question(city: str) -> str:
    """What is asked about a city."""
    return f"the capital of the state containing {city} is"


# A prompt, one that differs where the answer is decided, and the answer to each. All are of one length.
cities = {"Dallas": " Austin", "Oakland": " Sacramento", "Rockford": " Springfield", "Lewisport": " Frankfort"}
pairs = [
    (question(one), question(other), cities[one], cities[other]) for one in cities for other in cities if one != other
]
task = tlc.Task.of(model, pairs, "capital of the state containing a city")

for basis in (tlc.Basis.features(model, clt), tlc.Basis.features(model, plt), tlc.Basis.neurons(model)):
    curve = tlc.circuit_curve(model, basis, task, "ig-inputs")
    by_size = dict(zip(curve.sizes, curve.faithfulness.tolist(), strict=True))
    shown = ", ".join(f"{by_size[size]:.2f} of {size}" for size in (8, 32, 128, 512))
    print(f"{basis.name:<8} faithfulness {shown} and {by_size[curve.sizes[-1]]:.2f} of all {curve.sizes[-1]:,} units")
