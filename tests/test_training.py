"""The training loop: what decides its result, when it stops, what it leaves alone, and what it says when it cannot."""

import copy
from collections.abc import Callable
from dataclasses import replace
from itertools import chain, pairwise
from math import cos, pi

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ae_models import training
from ae_models.corruptions import GaussianNoise
from ae_models.detector import Detector
from ae_models.errors import InputError
from ae_models.images import ImageSpec
from ae_models.networks import build_network
from ae_models.training import Epoch, TrainingResult, TrainingSettings, choose_device, fit

SPEC = ImageSpec(8, 8, 1)
QUICK = TrainingSettings(epochs=3, batch_size=8, device="cpu")


def noise(count: int, seed: int = 0) -> NDArray[np.float32]:
    """Images without any structure (count, 1, 8, 8) in [0, 1]: what is learnt of them is learnt by heart."""
    return np.random.default_rng(seed).random((count, *SPEC.shape), dtype=np.float32)


def linear() -> nn.Module:
    """The lesson's linear network, which has batch normalisation."""
    return build_network("linear", SPEC, {})


def trained(settings: TrainingSettings = QUICK, build: Callable[[], nn.Module] = linear) -> TrainingResult:
    """The network after training on twenty images and stopping by ten others."""
    return fit(build, noise(20), noise(10, seed=1), settings)


def losses(result: TrainingResult) -> list[tuple[float, float]]:
    """Training and validation loss of each epoch."""
    return [(epoch.training_loss, epoch.validation_loss) for epoch in result.epochs]


def same_weights(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    """Whether two networks have equal parameters and buffers."""
    return all(torch.equal(first[name], second[name]) for name in first.keys() | second.keys())


class Recorder(nn.Module):
    """Reconstructs every image by one number, and notes the batches that it is trained on."""

    def __init__(self, start: float = 0.0) -> None:
        super().__init__()
        self.answer = nn.Parameter(torch.tensor(start))
        self.batches: list[list[float]] = []

    def forward(self, images: Tensor) -> Tensor:
        """The same value at every pixel."""
        if self.training:
            self.batches.append(images[:, 0, 0, 0].tolist())
        return self.answer.expand_as(images)


class TestReproducibility:
    """The seed decides everything, and nothing outside is touched."""

    def test_the_same_seed_gives_the_same_network(self) -> None:
        """Weights and losses are equal to the last bit."""
        first, second = trained(), trained()
        assert losses(first) == losses(second)
        assert same_weights(first.network.state_dict(), second.network.state_dict())

    def test_another_seed_gives_another_network(self) -> None:
        """Initial weights and the order of the images come from the seed."""
        assert losses(trained()) != losses(trained(replace(QUICK, seed=1)))

    def test_random_numbers_drawn_before_do_not_matter(self) -> None:
        """What else the process does with torch's generator has no influence."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(123)
            first = trained()
            torch.rand(7)
            assert losses(trained()) == losses(first)

    def test_random_numbers_drawn_on_the_way_do_not_matter(self) -> None:
        """What `on_epoch` does with torch's generator does not change the order of the images."""

        def draw(epoch: Epoch, network: nn.Module) -> None:
            torch.rand(7)

        assert losses(fit(linear, noise(20), noise(10, seed=1), QUICK, draw)) == losses(trained())

    def test_global_random_states_are_left_as_they_were(self) -> None:
        """Training draws from its own generators alone, torch's and numpy's stay where they are."""
        before = torch.get_rng_state(), str(np.random.get_state())
        trained()
        assert torch.equal(torch.get_rng_state(), before[0])
        assert str(np.random.get_state()) == before[1]

    def test_an_error_on_the_way_leaves_random_states_as_they_were(self) -> None:
        """An exception in `on_epoch` reaches the caller, and torch's generator is where it was."""

        def fail(epoch: Epoch, network: nn.Module) -> None:
            raise KeyboardInterrupt

        before = torch.get_rng_state()
        with pytest.raises(KeyboardInterrupt):
            fit(linear, noise(20), noise(10), QUICK, fail)
        assert torch.equal(torch.get_rng_state(), before)

    def test_images_are_left_as_they_were(self) -> None:
        """Neither training nor validation images are written into."""
        images, validation = noise(20), noise(10, seed=1)
        fit(linear, images, validation, QUICK)
        assert np.array_equal(images, noise(20))
        assert np.array_equal(validation, noise(10, seed=1))


class TestBatches:
    """Each epoch sees each training image once, and no batch is of a single image."""

    @pytest.mark.parametrize("batch_size", [1, 2, 3, 4, 8, 9, 64])
    def test_every_image_is_used_once_an_epoch(self, batch_size: int) -> None:
        """Nine images are each in one batch of each epoch, in batches of at least two, whatever the batch size."""
        network, images = Recorder(), noise(9)
        fit(lambda: network, images, noise(2), replace(QUICK, epochs=1, batch_size=batch_size))
        assert sorted(chain.from_iterable(network.batches)) == sorted(images[:, 0, 0, 0].tolist())
        assert min(map(len, network.batches)) >= 2
        assert max(map(len, network.batches)) <= max(2, batch_size) + 1

    def test_the_order_changes_from_epoch_to_epoch(self) -> None:
        """Images are shuffled anew for every epoch."""
        network = Recorder()
        fit(lambda: network, noise(20), noise(2), replace(QUICK, epochs=2, batch_size=20))
        assert network.batches[0] != network.batches[1]

    @pytest.mark.parametrize("batch_size", [1, 4, 8])
    def test_batch_normalisation_never_meets_a_single_image(self, batch_size: int) -> None:
        """Nine images in batches of one, four and eight train a network with batch normalisation."""
        result = fit(linear, noise(9), noise(1, seed=1), replace(QUICK, batch_size=batch_size))
        assert len(result.epochs) == QUICK.epochs


class TestValidationImages:
    """Held-out images say when to stop, and teach nothing."""

    def test_they_are_not_trained_on(self) -> None:
        """With other validation images every epoch has the same weights and batch-norm statistics."""
        histories: list[list[dict[str, Tensor]]] = [[], []]
        for seed, history in enumerate(histories, start=1):

            def note(epoch: Epoch, network: nn.Module, history: list[dict[str, Tensor]] = history) -> None:
                history.append(copy.deepcopy(network.state_dict()))

            fit(linear, noise(20), noise(10, seed=seed), QUICK, note)
        assert len(histories[0]) == QUICK.epochs
        assert all(same_weights(*weights) for weights in zip(*histories, strict=True))

    def test_their_loss_is_the_detectors_mean_score(self) -> None:
        """The best epoch's validation loss is what a detector with the network gives these images on average."""
        result = trained()
        scores = Detector(SPEC, "linear", {}, result.network).score(noise(10, seed=1))
        assert result.best.validation_loss == pytest.approx(scores.mean(), rel=1e-5)


class Pair(nn.Module):
    """Gives its input back, and notes what it got and what it should have given."""

    def __init__(self) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(1.0))
        self.trained_on: list[tuple[Tensor, Tensor]] = []
        self.validated_on: list[Tensor] = []

    def forward(self, images: Tensor) -> Tensor:
        """The input."""
        self.validated_on.append(images)
        return self.factor * images

    def training_loss(self, images: Tensor, clean: Tensor) -> Tensor:
        """A loss that teaches nothing."""
        self.trained_on.append((images, clean))
        return 0 * self.factor + 3.0

    def load_pretrained(self) -> None:
        """The factor that shows that this was called."""
        nn.init.constant_(self.factor, 0.5)


class TestCorruption:
    """The network's input is corrupted, and the loss is against the clean image."""

    @staticmethod
    def pair(epochs: int = 2, deviation: float = 0.1) -> tuple[Pair, TrainingResult]:
        """What a network saw in an epoch or two, each of a single batch, with noise unless its deviation is 0."""
        network, corruption = Pair(), GaussianNoise(deviation) if deviation else None
        settings = replace(QUICK, epochs=epochs, batch_size=20)
        return network, fit(lambda: network, noise(20), noise(10, seed=1), settings, corruption=corruption)

    def test_the_loss_is_against_the_clean_images(self) -> None:
        """Each image goes in corrupted, and what should come out is that image as it was given."""
        network, _ = self.pair(epochs=1)
        inputs, clean = network.trained_on[0]
        assert sorted(clean[:, 0, 0, 0].tolist()) == sorted(noise(20)[:, 0, 0, 0].tolist())
        assert 0.02 < (inputs - clean).std().item() < 0.12

    def test_each_epoch_is_corrupted_anew(self) -> None:
        """No image is corrupted twice in the same way."""
        network, _ = self.pair()
        (first, first_clean), (second, second_clean) = network.trained_on
        order = [int(place) for place in first_clean[:, 0, 0, 0].argsort()]
        other = [int(place) for place in second_clean[:, 0, 0, 0].argsort()]
        assert torch.equal(first_clean[order], second_clean[other])
        assert not torch.equal(first[order], second[other])

    def test_held_out_images_are_corrupted_once(self) -> None:
        """Each epoch's validation loss is of the same corrupted images, against the clean ones."""
        network, result = self.pair()
        first, second = network.validated_on
        assert torch.equal(first, second)
        assert not torch.equal(first, torch.from_numpy(noise(10, seed=1)))
        loss = np.square(0.5 * first.numpy() - noise(10, seed=1)).mean()
        assert result.best.validation_loss == pytest.approx(loss, rel=1e-5)

    def test_it_leaves_the_order_of_the_images_as_it_is(self) -> None:
        """The same clean images are in the same place, with a corruption and without."""
        (with_noise, _), (without, _) = self.pair(), self.pair(deviation=0)
        for (_, clean), (inputs, same) in zip(with_noise.trained_on, without.trained_on, strict=True):
            assert torch.equal(clean, same)
            assert torch.equal(inputs, same)

    def test_the_same_seed_gives_the_same_network(self) -> None:
        """Corruptions come from the seed as well."""
        first, second = (fit(linear, noise(20), noise(10), QUICK, corruption=GaussianNoise()) for _ in range(2))
        assert losses(first) == losses(second)
        assert losses(first) != losses(fit(linear, noise(20), noise(10), QUICK))


class TestNetworksOfTheirOwnKind:
    """A network may say what it learns from and what it begins with."""

    def test_its_own_loss_is_what_it_learns_from(self) -> None:
        """The training loss is the network's; the validation loss stays the squared error, to be compared by."""
        _, result = TestCorruption.pair(epochs=1, deviation=0)
        assert result.best.training_loss == 3.0
        assert result.best.validation_loss == pytest.approx(np.square(0.5 * noise(10, seed=1)).mean(), rel=1e-5)

    def test_pretrained_weights_are_put_in_before_training(self) -> None:
        """`load_pretrained` is called once the network is built."""
        network, _ = TestCorruption.pair(epochs=1)
        assert network.factor.item() == 0.5


class TestEpochs:
    """What an epoch reports, when the last one is, and which one's weights are kept."""

    def test_epochs_are_reported_in_order(self) -> None:
        """`on_epoch` gets epochs 1 to n as the history has them, each with the network in evaluation mode."""
        seen: list[tuple[Epoch, bool]] = []
        settings = replace(QUICK, epochs=5)
        result = fit(linear, noise(20), noise(10), settings, lambda epoch, net: seen.append((epoch, net.training)))
        assert [epoch.number for epoch, _ in seen] == [1, 2, 3, 4, 5]
        assert tuple(epoch for epoch, _ in seen) == result.epochs
        assert not any(training for _, training in seen)
        assert all(earlier.seconds <= later.seconds for earlier, later in pairwise(result.epochs))

    def test_training_stops_when_validation_no_longer_gains(self) -> None:
        """Learning noise by heart, the validation loss has its best early, and `patience` epochs later it ends."""
        result = trained(replace(QUICK, epochs=200, learning_rate=1e-2, patience=4))
        assert len(result.epochs) == result.best.number + 4 < 200
        assert result.best == min(result.epochs, key=lambda epoch: epoch.validation_loss)

    def test_the_weights_are_those_of_the_best_epoch(self) -> None:
        """Not the last weights are returned but those, buffers included, that `on_epoch` saw in the best epoch."""
        history: list[dict[str, Tensor]] = []
        settings = replace(QUICK, epochs=200, learning_rate=1e-2, patience=4)
        result = fit(
            linear,
            noise(20),
            noise(10, seed=1),
            settings,
            lambda epoch, network: history.append(copy.deepcopy(network.state_dict())),
        )
        assert same_weights(result.network.state_dict(), history[result.best.number - 1])
        assert not same_weights(result.network.state_dict(), history[-1])

    def test_the_network_is_ready_for_use(self) -> None:
        """It comes back on the CPU and in evaluation mode."""
        result = trained()
        assert not result.network.training
        assert {parameter.device.type for parameter in result.network.parameters()} == {"cpu"}
        assert result.device == "cpu"

    def test_the_learning_rate_falls_along_a_cosine(self) -> None:
        """Where Adam's steps are as long as the learning rate, they shrink from it towards zero over the epochs."""
        answers = [-1000.0]
        fit(
            lambda: Recorder(start=-1000.0),
            np.ones((4, *SPEC.shape), np.float32),
            noise(2),
            TrainingSettings(epochs=4, batch_size=4, learning_rate=1.0, device="cpu"),
            lambda epoch, network: answers.append(next(network.parameters()).item()),
        )
        expected = [(1 + cos(pi * epoch / 4)) / 2 for epoch in range(4)]
        assert np.diff(answers) == pytest.approx(expected, abs=1e-2)


class TestRefusals:
    """What cannot be trained is said in one sentence with what to do."""

    @pytest.mark.parametrize(("count", "held_out"), [(0, 5), (1, 5), (5, 0)])
    def test_too_few_images(self, count: int, held_out: int) -> None:
        """Training needs two images and one held-out one."""
        sentence = f"^{count} training and {held_out} validation images are too few: give more nominal ones$"
        with pytest.raises(InputError, match=sentence):
            fit(linear, noise(count), noise(held_out), QUICK)

    def test_two_images_are_enough(self) -> None:
        """The fewest possible images train."""
        assert fit(linear, noise(2), noise(1), QUICK).epochs

    def test_a_validation_loss_that_is_no_number(self) -> None:
        """A learning rate that throws the weights off is named with a better one, and the loss is the one at fault."""
        sentence = (
            r"^the loss became nan in epoch 1: set training\.learning_rate below 1e\+30 "
            r"\(a tenth of it is a good next try\)$"
        )
        with pytest.raises(InputError, match=sentence):
            trained(replace(QUICK, learning_rate=1e30, batch_size=20))

    @pytest.mark.parametrize(("answer", "loss"), [(float("nan"), "nan"), (1e30, "inf")])
    def test_a_training_loss_that_is_no_number(self, answer: float, loss: str) -> None:
        """The same is said of a training loss that is NaN, or too large to be a number."""
        with pytest.raises(
            InputError, match=rf"^the loss became {loss} in epoch 1: set training\.learning_rate below "
        ):
            trained(build=lambda: Recorder(start=answer))

    @pytest.mark.parametrize("device", ["cuda:99", "gpu", "xpu", "meta", ""])
    def test_a_device_that_is_not_there(self, device: str) -> None:
        """The wished device is named with those that can be had."""
        sentence = f"^device '{device}' is not on this machine: set training.device to auto or cpu"
        with pytest.raises(InputError, match=sentence):
            trained(replace(QUICK, device=device))


def test_auto_is_a_device_that_works() -> None:
    """Left to itself the choice falls on a device of this machine."""
    assert torch.ones(2, device=choose_device("auto")).sum().item() == 2


def test_the_cpu_is_always_there() -> None:
    """The CPU can be asked for by name."""
    assert choose_device("cpu") == torch.device("cpu")


def test_threads_follow_the_time_that_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch has no more threads than control groups leave time for, and never more than it had."""
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        monkeypatch.setattr(training, "available_cores", lambda: 4)
        choose_device("cpu")
        assert torch.get_num_threads() == 3
        monkeypatch.setattr(training, "available_cores", lambda: 2)
        choose_device("cpu")
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
