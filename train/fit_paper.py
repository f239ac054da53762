"""Trains one of the papers' networks on endless patches, and goes on where it was stopped.

    python -m train.fit_paper densenet-qf90 --src FOLDER --run runs/densenet-qf90

The names are those of the files in `configs/`, each with a schedule for the CPU and one for a GPU, which is taken where
there is one. The learning rate follows one cycle over the minutes of the schedule, counted in training time: on a CPU
the processor's time shared by its threads, so that a busy machine takes longer and ends at the same point. A
checkpoint with the config in it is written every two minutes; the same command started again continues from it. On
a machine of the other kind it begins that machine's cycle with the weights that are there. `--start RUN` begins with
the weights of another run instead of new ones, all but the last layer where that has another size.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import os
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from jscan.jpegtables import N_COEFS
from jscan.tiling import WINDOW
from train import paper_config, replay
from train.dataset import find_images
from train.losses import q1_loss, regression_loss
from train.networks.densenet import SCALE, see_flatness
from train.networks.lean import Lean
from train.networks.steps import Steps, of_blocks, plant
from train.paper_config import Config
from train.paper_patches import Batch, Patches, shapes

SAY_EVERY, SAVE_EVERY = 30.0, 120.0
"""Seconds between two lines, and between two checkpoints."""
LAYOUT = torch.channels_last
"""Of pixels and weights in memory."""
FEW = 64
"""Patches on which a new network's beginning is fitted."""
SHALLOW_RATE = 1e-2
"""The highest learning rate of the shallow network."""
OF_BLOCKS = 60.0
"""Weight of the loss of single blocks beside that of patches; it falls to nothing while the shallow one is trained."""
MANY, RIDGE = 1500, 1e-2
"""Patches that a new last layer is fitted to, and how much of their mean square is added to that of each feature."""
RISE = 0.1
"""Share of the cycle in which the learning rate rises."""
NATIVE_HALF = {"avx512_bf16", "amx_bf16"}
"""Instructions of a CPU that computes in bfloat16, as torch names them."""
PER_CROP = {"cpu": 2, "gpu": 4}
"""Patches cut from one compressed image: a core makes 450 a second of one and 1,800 of four; a GPU wants thousands."""


def rate(progress: float, peak: float) -> float:
    """One cycle of the learning rate: a rise, then a cosine to nothing."""
    if progress < RISE:
        return peak * (0.05 + 0.95 * progress / RISE)
    return peak * 0.5 * (1 + math.cos(math.pi * min(1.0, (progress - RISE) / (1 - RISE))))


def scaled(pixels: Tensor, network: str) -> Tensor:
    """uint8 pixels as the network reads them: 0 to 1 for `uchida`, -0.5 to 0.5 for the others."""
    return pixels.float() / 255 - (0.0 if network == "uchida" else 0.5)


def loss_of(config: Config, net: torch.nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """The mean loss of a batch on the network's device."""
    pixels = scaled(batch["pixels"], config.network).contiguous(memory_format=LAYOUT)
    if config.network == "uchida":
        maps: Tensor = net(pixels).float()
        return (maps - batch["target"][:, :, None, None]).pow(2).mean()
    # (N, R, C, out): one window, or 3 x 3 of a patch with its surroundings.
    out: Tensor = net(pixels, WINDOW // 2).float()
    windows = out.shape[1] * out.shape[2]
    out, q1 = out.flatten(0, 2), batch["q1"].repeat_interleave(windows, 0)
    if config.network == "regression":
        return regression_loss(out, q1.float()).mean()
    return q1_loss(out, q1, squared=config.distance == "squared").mean()


Windows = dict[str, Tensor]
"""A batch on the network's device, cut into windows: `pixels` (n, channels, 64, 64) as the network reads them."""


class Trainer:
    """The network of a run, its optimizer and its clocks, as they are kept in `last.pt`."""

    def __init__(
        self,
        config: Config,
        run: Path,
        device: str,
        minutes: float | None = None,
        start: Path | None = None,
        eager: bool = False,
    ) -> None:
        """Goes on with the run if there is one, else with the weights of the run `start`, else with new ones.

        Raises ValueError where it was begun with another recipe, or `start` with another kind of beginning.
        """
        self.config, self.device, self.last = config, device, run / "last.pt"
        self.schedule = config.gpu if device == "gpu" else config.cpu
        self.budget = 60 * (self.schedule.minutes if minutes is None else minutes)
        self.place = torch.device("cuda" if device == "gpu" else "cpu")
        # Coefficients are differences of levels that are a hundred times as large: TF32 would round them.
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
        torch.backends.cudnn.benchmark = True  # batches come in two shapes
        torch.manual_seed(0)
        self.net: Any = paper_config.build(config).to(self.place, memory_format=LAYOUT)  # type: ignore[call-overload]
        # On a GPU whole steps are recorded and replayed, for which the rate has to lie there.
        self.rate = torch.tensor(self.schedule.rate, device=self.place)
        self.how: dict[str, Any] = {"lr": self.schedule.rate, "fused": False, "capturable": False}
        if device == "gpu":
            self.how = {"lr": self.rate, "fused": True, "capturable": True}
        self.model: torch.nn.Module = self.net
        """What is trained: the network, or where it begins as steps what it stands for."""
        self.steps: Any = None
        if config.begin == "steps":
            self.steps = Steps().to(self.place)
            self.model = Lean(self.steps, self.net)
        self.optimizer = torch.optim.Adam((w for w in self.model.parameters() if w.requires_grad), **self.how)
        self.recorded: dict[torch.Size, replay.Recorded] = {}
        self.state: dict[str, Any] = {"cpu": 0.0, "gpu": 0.0, "steps": 0, "patches": 0, "loss": float("nan")}
        self.half = device == "gpu"
        self.losses: list[Tensor] = []
        self.images: list[int] = []
        self.eager = eager
        self.begun, self.new_last = self.last.exists() or start is not None, False
        self.shallow: Any = None
        self.shallow_on = ""  # the kind of machine whose cycle began with the shallow network
        self.recent: deque[Windows] = deque()
        if config.begin == "steps" and not self.begun:
            self.shallow_on = device
            self.begin_shallow()
        self.start = "" if start is None else str(start)
        run.mkdir(parents=True, exist_ok=True)
        if start is not None and not self.last.exists():
            begun = load(start / "last.pt", self.place)
            theirs, own = begun["net"], self.net.state_dict()
            self.net.load_state_dict({k: theirs[k] if theirs[k].shape == v.shape else v for k, v in own.items()})
            if self.steps is not None:
                if "steps" not in begun:
                    raise ValueError(f"{start} was not begun as the shallow network; begin with one that was")
                self.load_steps(begun, start)
                if "shallow" in begun:
                    self.begin_shallow()
            self.new_last = config.network == "regression" and theirs["last.weight"].shape != own["last.weight"].shape
        if self.last.exists():
            saved = load(self.last, self.place)
            kept = paper_config.from_values(config.name, saved["config"])
            if kept.recipe() != config.recipe():
                raise ValueError(f"{self.last} was trained with another recipe; name another folder, or remove it")
            self.net.load_state_dict(saved["net"])
            self.optimizer.load_state_dict(saved["optimizer"])
            for group in self.optimizer.param_groups:
                group.update(self.how)  # it may have been another machine's
            if self.steps is not None:
                self.load_steps(saved, self.last)
            if "shallow" in saved:
                self.begin_shallow(saved["shallow"])
            self.state, self.start = saved["state"], saved.get("start", "")
            self.images, self.shallow_on = saved.get("images", []), saved.get("shallow_on", "")

    @property
    def progress(self) -> float:
        """How much of the cycle on this kind of machine is done, 0 to 1."""
        return float(min(1.0, self.state[self.device] / max(self.budget, 1e-9)))

    def load_steps(self, saved: dict[str, Any], where: Path) -> None:
        """Nothing; the shallow network is that of a run. Raises ValueError where its parts are others."""
        own = {k: v.shape for k, v in self.steps.state_dict().items()}
        if own != {k: v.shape for k, v in saved["steps"].items()}:
            raise ValueError(f"{where} was begun as a shallow network of another kind; begin anew, in another folder")
        self.steps.load_state_dict(saved["steps"])

    def begin_shallow(self, saved: dict[str, Any] | None = None) -> None:
        """Nothing; the shallow network is trained first, as it was or from now on."""
        # All of it, apart from what is trained of it later.
        self.shallow = torch.optim.Adam(self.steps.requires_grad_().parameters(), SHALLOW_RATE)
        if saved is not None:
            self.shallow.load_state_dict(saved)

    @property
    def shallow_share(self) -> float:
        """How much of the cycle on this kind of machine is the shallow network's."""
        return self.schedule.shallow if self.shallow_on == self.device else 0.0

    def begin(self, batch: Batch) -> None:
        """Nothing; a new DenseNet begins with detectors of flat places, and a GPU has recorded what it does."""
        if not self.begun and self.config.network != "uchida" and self.config.begin == "flat":
            few = torch.from_numpy(batch["pixels"][:FEW]).to(self.place)
            see_flatness(self.net, scaled(few, self.config.network))
        self.begun = True
        if self.device != "gpu":
            self.choose_precision(batch)
        elif not self.eager and self.shallow is None:
            self.record()

    def record(self) -> None:
        """Nothing; a step of each shape of batch is recorded; what trying them changed is undone."""
        weights = {k: v.clone() for k, v in self.model.state_dict().items()}
        moments = {p: {k: v.clone() for k, v in s.items()} for p, s in self.optimizer.state.items()}
        channels = paper_config.INPUTS[self.config.input]
        both = shapes(self.config, self.schedule.batch, PER_CROP[self.device])
        for side, count in both if self.config.context_share else both[:1]:
            batch = {"pixels": torch.zeros(count, channels, side, side, dtype=torch.uint8)}
            if self.config.network == "uchida":
                batch["target"] = torch.zeros(count, 2)
            else:
                batch["q1"] = torch.ones(count, N_COEFS, dtype=torch.int64)
            on = {k: v.to(self.place) for k, v in batch.items()}
            self.recorded[batch["pixels"].shape] = replay.record(self.update, on)
        self.model.load_state_dict(weights)
        with torch.no_grad():
            for parameter, values in self.optimizer.state.items():
                for key, value in values.items():
                    value.copy_(moments[parameter][key]) if parameter in moments else value.zero_()

    def update(self, on: dict[str, Tensor]) -> Tensor:
        """The loss of a batch on the network's device, which has made a step."""
        self.optimizer.zero_grad()
        with torch.autocast(self.place.type, torch.bfloat16, enabled=self.half):
            loss = loss_of(self.config, self.model, on)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 2.0)
        self.optimizer.step()
        return loss.detach()

    def fit_last(self, some: Iterable[Windows]) -> None:
        """Nothing; a new last layer of steps is the best for the features that are there, of MANY windows."""
        features: list[Tensor] = []
        steps: list[Tensor] = []
        model: Any = self.model.eval()
        for windows in some:
            with torch.no_grad(), torch.autocast(self.place.type, torch.bfloat16, enabled=self.half):
                found = model.features(windows["pixels"]).float()
            features.append(functional.avg_pool2d(found, WINDOW // SCALE)[..., 0, 0].double())
            steps.append(windows["q1"].double())
            if sum(map(len, steps)) >= MANY:
                break
        model.train()
        x, y = torch.cat(features), torch.cat(steps)
        of_x, of_y = x.mean(0), y.mean(0)
        square = (x - of_x).T @ (x - of_x)
        square += RIDGE * square.diagonal().mean() * torch.eye(len(square), device=self.place)
        weight = torch.linalg.solve(square, (x - of_x).T @ (y - of_y)).T
        with torch.no_grad():
            self.net.last.weight.copy_(weight)
            self.net.last.bias.copy_(of_y - weight @ of_x)
        self.new_last = False

    def windows(self, batch: Batch) -> Windows:
        """The patches cut into windows where they have surroundings, and what is known of each."""
        on = {k: torch.from_numpy(v).to(self.place) for k, v in batch.items()}
        windows = on.pop("pixels").unfold(2, WINDOW, WINDOW).unfold(3, WINDOW, WINDOW).permute(0, 2, 3, 1, 4, 5)
        of_patch = windows.shape[1] * windows.shape[2]
        known = {k: v.repeat_interleave(of_patch, 0) for k, v in on.items()}  # windows begin 64 pixels apart
        return {**known, "pixels": scaled(windows.flatten(0, 2), self.config.network)}

    def step_shallow(self, batch: Batch) -> None:
        """Nothing; the shallow network has made a step, with windows of patches that have surroundings for patches."""
        done = min(1.0, self.progress / max(self.shallow_share, 1e-9))
        for group in self.shallow.param_groups:
            group["lr"] = rate(done, SHALLOW_RATE)
        windows = self.windows(batch)
        scores = self.steps.scores(windows["pixels"])
        squared = self.config.distance == "squared"
        loss = q1_loss(self.steps.answers(scores), windows["q1"], squared=squared).mean()
        blocks = of_blocks(scores, windows["corner"], windows["qf1"])
        self.shallow.zero_grad()
        (loss + OF_BLOCKS * (1 - done) * blocks).backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.steps.parameters(), 2.0)
        self.shallow.step()
        self.losses.append(loss.detach())
        self.recent.append(windows)
        wanted = MANY if self.config.network == "regression" else FEW
        while sum(len(w["pixels"]) for w in self.recent) - len(self.recent[0]["pixels"]) >= wanted:
            self.recent.popleft()

    def plant(self) -> None:
        """Nothing; the network is what the shallow one has become."""
        pixels = torch.cat([windows["pixels"] for windows in self.recent])[-FEW:]
        self.shallow.zero_grad()
        # On the CPU: thousands of single numbers are set. The weights that the optimizer and a GPU know stay in place.
        planted = copy.deepcopy(self.net).cpu()
        plant(copy.deepcopy(self.steps).cpu().eval(), planted, pixels.cpu())
        self.net.load_state_dict(planted.state_dict())
        self.model, self.shallow = Lean(self.steps, self.net), None
        if self.config.network == "regression":
            self.fit_last(self.recent)
        self.recent.clear()
        if self.device == "gpu" and not self.eager:
            self.record()

    def step(self, batch: Batch) -> None:
        """Nothing; the network has made a step."""
        if self.shallow is not None and self.progress >= self.shallow_share and self.recent:
            self.plant()
        if self.shallow is None:
            self.step_deep(batch)
        else:  # until there are patches to plant on, where a run is gone on with at that very point
            self.step_shallow(batch)
        self.state["steps"] += 1
        self.state["patches"] += len(batch["pixels"])

    def step_deep(self, batch: Batch) -> None:
        """Nothing; the network itself has made a step."""
        done = (self.progress - self.shallow_share) / (1 - self.shallow_share)
        now = rate(max(0.0, done), self.schedule.rate)
        recorded = self.recorded.get(torch.Size(batch["pixels"].shape))
        if recorded is not None:
            self.rate.fill_(now)
            loss = recorded.replay(batch)
        else:
            for group in self.optimizer.param_groups:
                group["lr"] = self.rate.fill_(now) if self.device == "gpu" else now
            loss = self.update({k: torch.from_numpy(v).to(self.place) for k, v in batch.items()})
        self.losses.append(loss)  # to read it now would be to wait for the GPU

    def settle(self) -> None:
        """Nothing; the smoothed loss holds all steps."""
        for value in torch.stack(self.losses).tolist() if self.losses else ():
            smooth = self.state["loss"]
            self.state["loss"] = value if math.isnan(smooth) else 0.98 * smooth + 0.02 * value
        self.losses.clear()

    def choose_precision(self, batch: Batch) -> None:
        """Nothing; on a CPU that has bfloat16 the faster of it and float32 is taken, by a pass of each there and back.

        One without is spared the comparison: it emulates bfloat16, and with AVX2 alone two steps of 8 patches had not
        ended after 150 s, where those of float32 took 10 s.
        """
        if self.device == "gpu" or not NATIVE_HALF & {k for k, has in torch.cpu.get_capabilities().items() if has}:
            return
        few = {k: torch.from_numpy(v[:4]) for k, v in batch.items()}
        seconds = {}
        kept = {k: v.clone() for k, v in self.model.state_dict().items()}  # running statistics move with every pass
        for half in (False, True):
            for _ in range(2):  # the first pass prepares what the second uses
                start = time.process_time()
                with torch.autocast("cpu", torch.bfloat16, enabled=half):
                    loss = loss_of(self.config, self.model, few)
                loss.backward()  # type: ignore[no-untyped-call]
                seconds[half] = time.process_time() - start
        self.model.load_state_dict(kept)
        self.optimizer.zero_grad()
        self.half = seconds[True] < seconds[False]

    def save(self) -> None:
        """Nothing; the checkpoint is on the disk, whole."""
        self.settle()
        kept = {
            "net": self.net.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "state": self.state,
            "config": {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self.config).items()},
            "minutes": self.budget / 60,
            "device": self.device,
            "start": self.start,
            "images": self.images,
            "shallow_on": self.shallow_on,
        }
        if self.steps is not None:
            kept |= {"steps": self.steps.state_dict()}
        if self.shallow is not None:
            kept["shallow"] = self.shallow.state_dict()
        part = self.last.with_suffix(".part")
        torch.save(kept, part)
        part.replace(self.last)

    def line(self, **more: Any) -> str:
        """Where the run stands, as one line of JSON."""
        self.settle()
        numbers = {k: round(v, 4) for k, v in {**self.state, **more}.items()}
        said = {"task": self.config.name, "device": self.device, "bf16": self.half}
        return json.dumps({**said, "progress": round(self.progress, 4), **numbers})


def training_time(device: str) -> float:
    """Seconds of a clock of training: the wall's with a GPU, else the processor's, shared by the threads."""
    return time.time() if device == "gpu" else time.process_time() / torch.get_num_threads()


def load(path: Path, place: torch.device | None = None) -> dict[str, Any]:
    """What a checkpoint holds."""
    saved: dict[str, Any] = torch.load(path, weights_only=True, map_location=place or "cpu")
    return saved


def fit(
    config: Config,
    src: Path,
    run: Path,
    *,
    device: str,
    workers: int,
    minutes: float | None = None,
    start: Path | None = None,
    eager: bool = False,
    say: Callable[[str], None] = lambda line: print(line, flush=True),
) -> Path:
    """Trains until the cycle is done and returns the path of the last checkpoint, `run`/last.pt."""
    trainer = Trainer(config, run, device, minutes, start, eager)
    if trainer.progress >= 1:
        return trainer.last
    trainer.images.append(len(find_images(src)))
    size, per_crop = trainer.schedule.batch, PER_CROP[device]
    # Other patches than before the run was stopped.
    seed = 1 + trainer.state["steps"]
    stream = Patches(config, src, seed=seed, workers=workers, size=size, per_crop=per_crop)
    try:
        batch = next(stream)
        trainer.begin(batch)
        if trainer.new_last:
            trainer.fit_last(map(trainer.windows, stream))
        told = saved = time.time()
        clock, done, waited = training_time(device), 0, 0.0
        while trainer.progress < 1:
            trainer.step(batch)
            done += len(batch["pixels"])
            before = time.time()
            batch = next(stream)
            now = time.time()
            waited += now - before
            used = training_time(device)
            trainer.state[device] += used - clock
            clock = used
            if now - told > SAY_EVERY or trainer.progress >= 1:
                say(trainer.line(patches_per_second=done / (now - told), waited=waited / (now - told)))
                told, done, waited = now, 0, 0.0
            if now - saved > SAVE_EVERY:
                saved = now
                trainer.save()
    finally:
        stream.close()
        trainer.save()
    return trainer.last


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=paper_config.NAMES)
    parser.add_argument("--src", type=Path, required=True, help="folder of uncompressed images")
    parser.add_argument("--run", type=Path, required=True, help="folder of checkpoints")
    parser.add_argument("--start", type=Path, help="run whose weights a new run begins with")
    parser.add_argument("--device", choices=("auto", "cpu", "gpu"), default="auto")
    parser.add_argument("--minutes", type=float, help="training time; that of the schedule")
    parser.add_argument("--eager", action="store_true", help="on a GPU, launch every step anew")
    parser.add_argument("--threads", type=int, help="threads of the trainer; all cores on a CPU")
    parser.add_argument("--workers", type=int, help="processes that make patches; 1 for a CPU, one a core for a GPU")
    o = parser.parse_args(arguments)
    cores = os.cpu_count() or 1
    device = o.device if o.device != "auto" else "gpu" if torch.cuda.is_available() else "cpu"
    torch.set_num_threads(o.threads or (cores if device == "cpu" else 1))
    workers = o.workers or (1 if device == "cpu" else max(1, cores - 1))
    config = paper_config.load(o.name)
    more = {"minutes": o.minutes, "start": o.start, "eager": o.eager}
    print(fit(config, o.src, o.run, device=device, workers=workers, **more))


if __name__ == "__main__":
    main()
