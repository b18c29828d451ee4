"""A GAN of another distribution, really installed: two networks, two optimizers, one run."""

from __future__ import annotations

import json

from support import Environment, run

GAN = ["data=normal-numbers", "model=gan", "loss=bce-with-logits", "optimizer=two-adams", "train.evaluate=[]"]
SIZE = ["train.epochs=15", "train.batch_size=50"]


def test_a_generator_and_a_discriminator_are_trained_with_an_optimizer_each(extended: Environment) -> None:
    done = extended.hookline("train", "--json", *GAN, *SIZE)
    assert done.returncode == 0, done.stderr
    ending = json.loads(done.stdout.splitlines()[-1])
    (made,) = ending["summary"]["generated numbers"]
    # The numbers to learn have the mean 4 and the deviation 1.25; before the first step both are about 0.
    assert abs(made["mean"] - 4) < 0.5
    assert 0.8 < made["std"] < 1.7


PROGRAM = """
import sys, hookline, torch

def make():
    return hookline.Run(hookline.load_config({}, sys.argv[1:]))

whole, first, second = make(), make(), make()
end = whole.fit()
for step in first.steps():
    if step.step == 33:
        second.load_state_dict(first.state_dict())
        break
assert second.fit().history == end.history
assert second.result().summary == end.summary
for name, weight in whole.model.state_dict().items():
    assert torch.equal(second.model.state_dict()[name], weight), name

third = make()
state = first.state_dict()
state["plugins"]["optimizer"] = make().state_dict()["plugins"]["optimizer"]
third.load_state_dict(state)
assert third.fit().history != end.history
print("taken up")
"""


def test_a_run_with_two_optimizers_is_taken_up_to_the_last_bit(extended: Environment) -> None:
    done = run([str(extended.python), "-c", PROGRAM, *GAN, "train.epochs=3", "train.batch_size=50"])
    assert (done.stdout, done.stderr) == ("taken up\n", "")
