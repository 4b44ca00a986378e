"""The command line as a user meets it: its answers, its errors in one line, its exit status."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from functools import cache

import av
import pytest
import torch

from wan_core import __main__ as cli
from wan_core import speed
from wan_core.attention import choice
from wan_core.models import compiled
from wan_core.presets import find_preset

PROMPT = "a red circle moves to the right"
SMALL = ["--width", "32", "--height", "32", "--frames", "5", "--steps", "4"]


@pytest.fixture
def run(capsys):
    """Runs a command; answers exit status, stdout, stderr."""

    def run_one(*arguments):
        status = cli.main([str(argument) for argument in arguments])
        return status, *capsys.readouterr()

    return run_one


def test_generate_writes_the_file_and_says_what_it_did(run, model_folder, tmp_path, caplog):
    out = tmp_path / "new" / "clip.mp4"
    status, said, progress = run(
        "generate", PROMPT, "--out", out, "--model", model_folder, *SMALL, "--seed", "3"
    )
    assert status == 0
    with av.open(str(out)) as container:
        assert sum(1 for _ in container.decode(video=0)) == 5
        made_by = json.loads(container.metadata["wancore"])
    assert (made_by["prompt"], made_by["seed"], made_by["steps"]) == (PROMPT, 3, 4)
    assert (made_by["shift"], made_by["boundary"], made_by["fps"]) == (12.0, 0.875, 16)
    assert said.splitlines()[0] == str(out)
    assert "5 frames, 32 x 32, 16 fps, seed 3" in said
    assert "4 steps: 3 high_noise, then 1 low_noise; the switch falls at step 3 (timestep 799)" in said
    assert "step 4/4  low_noise, timestep 799" in progress.splitlines()
    assert "loading toy_t2v_low_noise.safetensors" in caplog.messages
    assert "frame 5/5  decoded" in progress.splitlines()


def test_every_option_arrives(run, model_folder, tmp_path):
    out = tmp_path / "clip.mp4"
    options = {
        "--negative": ("negative_prompt", "blue"),
        "--width": ("width", 48),
        "--height": ("height", 32),
        "--frames": ("frames", 1),
        "--fps": ("fps", 24.0),
        "--steps": ("steps", 2),
        "--shift": ("shift", 5.0),
        "--boundary": ("boundary", 0.5),
        "--cfg-high": ("guidance_scale_high", 2.0),
        "--cfg-low": ("guidance_scale_low", 1.0),
        "--scheduler": ("scheduler", "euler"),
        "--seed": ("seed", 2**64 - 1),
        "--step-cache": ("step_cache", 0.25),
        "--cfg-skip": ("cfg_skip", "last 1"),
        "--cfg-steps": ("cfg_steps", 1),
    }
    flags = [word for option, (_, value) in options.items() for word in (option, value)]
    assert run("generate", PROMPT, "--out", out, "--model", model_folder, *flags)[0] == 0
    with av.open(str(out)) as container:
        made_by = json.loads(container.metadata["wancore"])
    assert {name: made_by[name] for name, _ in options.values()} == dict(options.values())
    assert made_by["speed"] == {}
    assert made_by["reused_steps"] == []


def test_a_preset_sets_what_no_option_says(run, model_folder, tmp_path):
    out = tmp_path / "clip.mp4"
    arguments = ["--out", out, "--model", model_folder, "--width", 32, "--height", 32, "--frames", 1]
    status, said, progress = run("generate", PROMPT, *arguments, "--preset", "three-phase", "--cfg-low", 2)
    assert status == 0
    with av.open(str(out)) as container:
        made_by = json.loads(container.metadata["wancore"])
    three_phase = find_preset("t2v", "three-phase").settings
    assert {name: made_by[name] for name in three_phase} == {**three_phase, "guidance_scale_low": 2.0}
    assert "step 5/8  low_noise, timestep 833.333" in progress.splitlines()
    assert "steps 2-7 without guidance" in said


def test_speed_options_arrive(run, model_folder, tmp_path, monkeypatch, caplog):
    """On a CPU they are told where they make no difference, and the video is the same."""
    compiler = torch.compile  # code generation takes a minute
    monkeypatch.setattr(torch, "compile", lambda step, **how: compiler(step, backend="eager", **how))
    monkeypatch.setattr(compiled, "compiled_class", cache(compiled.compiled_class.__wrapped__))
    choice._chosen.cache_clear()
    speed._warn_once.cache_clear()
    flags = ("--attention", "sage", "--compile", "--residual", "16-bit", "--fp8-matmul")
    outs = [tmp_path / "exact.mp4", tmp_path / "fast.mp4"]
    for out, more in zip(outs, ((), flags), strict=True):
        assert run("generate", PROMPT, "--out", out, "--model", model_folder, *SMALL, *more)[0] == 0
    exact, fast = ([frame.to_ndarray() for frame in av.open(str(out)).decode(video=0)] for out in outs)
    assert all((one == other).all() for one, other in zip(exact, fast, strict=True))
    with av.open(str(outs[1])) as container:
        noted = json.loads(container.metadata["wancore"])["speed"]
    assert noted == {"attention": "sage", "compile": True, "residual": "16-bit", "fp8_matmul": True}
    assert "attention: sage is not for torch.float32 on cpu; SDPA is used" in caplog.messages
    assert "fp8 matmul: cpu has no fp8 products; nothing changes" in caplog.messages
    assert not [message for message in caplog.messages if "uncompiled" in message]


def test_generate_says_which_steps_it_saved(run, model_folder, tmp_path):
    out = tmp_path / "clip.mp4"
    saving = ["--step-cache", 1.0, "--cfg-skip", "first 1, 6-7", "--steps", 8]
    status, said, progress = run("generate", PROMPT, "--out", out, "--model", model_folder, *SMALL, *saving)
    assert status == 0
    with av.open(str(out)) as container:
        reused = json.loads(container.metadata["wancore"])["reused_steps"]
    assert reused
    assert {*reused} <= {4, 5}  # of 8, six high_noise: the first four and the first two of an expert are made
    assert [f"step {n + 1}/8" for n in reused] == [
        line.split("  ")[0] for line in progress.splitlines() if line.endswith(", reused")
    ]
    words = f"step{'s' if len(reused) > 1 else ''} {', '.join(map(str, reused))} reused"
    assert f"(timestep 799); {words}; steps 0, 6, 7 without guidance" in said


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["generate", "a circle", "--out", "x.mp4", "--frames", "18"], ["frames", "18", "17", "21"]),
        (["generate", "a circle", "--out", "x.mp4", "--width", "100"], ["width", "96", "112"]),
        (["generate", "a circle", "--out", "x.mp4", "--cfg-high", "nan"], ["nan"]),
        (["generate", "a circle", "--out", "x.mp4", "--step-cache", "0"], ["step cache", "0.05"]),
        (["generate", "a circle", "--out", "x.mp4", "--cfg-skip", "10%"], ["10%", "60%-100%"]),
        (["generate", "a circle", "--out", "x.mp4", "--cfg-skip", "40-44"], ["40-44", "40", "39"]),
        (["generate", "a circle", "--out", "x.mp4", "--cfg-steps", "-1"], ["cfg steps", "-1", "1000"]),
        (["generate", "a circle", "--out", "x.mp4", "--preset", "fast"], ["--preset", "fast", "distilled-4"]),
        (["plan", "--task", "ti2v", "--preset", "distilled-4"], ["ti2v", "released, draft"]),
        (["generate", "", "--out", "x.mp4"], ["prompt", "empty"]),
        (["generate", "a circle", "--out", "x.gif"], ["x.gif", ".mp4"]),
        (["generate", "a circle"], ["--out"]),
        (["generate", "a circle", "--out", "x.mp4", "--steps", "many"], ["--steps", "many"]),
        (["generate", "a circle", "--out", "x.mp4", "--model", "nowhere"], ["nowhere"]),
        (["plan", "--task", "t2v", "--steps", "0"], ["steps", "0"]),
        (["plan", "--task", "s2v"], ["s2v", "t2v"]),
        (["plan", "--task", "ti2v", "--boundary", "0.5"], ["boundary"]),
        (["plan", "--shift", "nan"], ["shift", "nan"]),
        (["paint"], ["paint", "generate"]),
        ([], ["COMMAND"]),
    ],
    ids=lambda value: " ".join(value)[:50],
)
def test_a_mistake_is_one_line_and_status_2(run, model_folder, tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    if arguments[:1] == ["generate"] and "--model" not in arguments:
        arguments = [*arguments, "--model", model_folder]
    status, said, error = run(*arguments)
    assert (status, said) == (2, "")
    assert error.startswith("wan_core: error: ")
    assert error.count("\n") == 1
    assert all(word in error for word in words), error
    assert not list(tmp_path.glob("x.*"))


def test_plan_as_json_and_as_text(run):
    arguments = ["plan", "--task", "t2v", "--steps", 40, "--shift", 12, "--scheduler", "unipc"]
    status, said, _ = run(*arguments, "--json")
    planned = json.loads(said)
    assert status == 0
    assert planned.keys() == {"steps", "switch"}
    assert planned["switch"] == 26
    assert [step["timestep"] for step in planned["steps"]][:3] == [999, 997, 995]
    assert {step["expert"] for step in planned["steps"][26:]} == {"low_noise"}
    text = run(*arguments)[1]
    assert "26 high_noise, then 14 low_noise" in text
    assert len([line for line in text.splitlines() if "noise" in line]) >= 40


def test_plan_of_a_preset(run):
    planned = json.loads(run("plan", "--task", "i2v", "--preset", "distilled-4", "--json")[1])
    assert [step["timestep"] for step in planned["steps"]] == [1000, 937.5, 833.333333333, 625]
    changed = json.loads(run("plan", "--preset", "distilled-4", "--steps", 2, "--json")[1])
    assert [step["timestep"] for step in changed["steps"]] == [1000, 833.333333333]


@pytest.mark.parametrize(("task", "steps", "switch"), [("t2v", 40, 26), ("i2v", 40, 15), ("ti2v", 50, None)])
def test_plan_takes_the_released_settings_by_default(run, task, steps, switch):
    planned = json.loads(run("plan", "--task", task, "--json")[1])
    assert (len(planned["steps"]), planned["switch"]) == (steps, switch)


def test_inspect_says_what_each_file_is(run, model_folder):
    files = sorted(model_folder.rglob("*.safetensors"))
    status, said, _ = run("inspect", *files, "--json")
    found = {row["file"]: row for row in json.loads(said)}
    assert status == 0
    assert list(found) == [str(file) for file in files]
    fields = {"file", "family", "task", "expert", "layout", "quantization", "parameters", "problems"}
    assert all(row.keys() == fields and row["problems"] == [] for row in found.values())
    high = found[str(model_folder / "diffusion_models/toy_t2v_high_noise.safetensors")]
    assert (high["family"], high["task"], high["expert"]) == ("wan-transformer", "t2v", "high_noise")
    assert run("inspect", *files)[1].count("toy_") >= len(files)


def test_inspect_of_a_bad_file_has_a_problem_and_status_1(run, model_folder, tmp_path):
    (tmp_path / "page.safetensors").write_bytes(b"<!DOCTYPE html><p>not found")
    good = model_folder / "vae/toy_vae.safetensors"
    status, said, _ = run(
        "inspect", good, tmp_path / "page.safetensors", tmp_path / "missing.safetensors", "--json"
    )
    fine, page, missing = json.loads(said)
    assert status == 1
    assert not fine["problems"]
    assert "web page" in page["problems"][0]
    assert "no such file" in missing["problems"][0]


@pytest.mark.parametrize("command", [[], ["generate"], ["plan"], ["inspect"]])
def test_help_reads_well(run, command):
    with pytest.raises(SystemExit) as stopped:
        run(*command, "--help")
    assert stopped.value.code == 0


@pytest.mark.slow
def test_ctrl_c_ends_with_130_and_leaves_no_file(root, model_folder, tmp_path):
    command = [sys.executable, "-m", "wan_core", "generate", PROMPT, "--out", str(tmp_path / "clip.mp4")]
    command += ["--model", str(model_folder), *SMALL[:-1], "1000"]
    # A job started in the background by a shell ignores SIGINT, and its children with it: give it back.
    process = subprocess.Popen(
        command,
        cwd=root,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    while not process.stderr.readline().startswith("step 1/"):
        assert process.poll() is None, "it ended before its first step"
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in error
    assert list(tmp_path.iterdir()) == []


def test_file_names_that_are_no_text(root, tmp_path):
    (tmp_path / os.fsdecode(b"caf\xe9.safetensors")).write_bytes(b"")
    command = [sys.executable, "-m", "wan_core", "inspect", *tmp_path.iterdir()]
    plain, as_json = (
        subprocess.run([*command, *option], cwd=root, capture_output=True, check=False)
        for option in ([], ["--json"])
    )
    assert (plain.returncode, as_json.returncode) == (1, 1)
    assert b"caf\xe9.safetensors" in plain.stdout
    assert "empty" in json.loads(as_json.stdout)[0]["problems"][0]


def test_a_reader_that_stops_early_is_no_error(root):
    """As in `python -m wan_core plan --steps 1000 | head -1`: more lines than a pipe holds."""
    command = [sys.executable, "-m", "wan_core", "plan", "--steps", "1000", "--json"]
    process = subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait(timeout=60) == 141


def test_the_built_in_model_can_be_missing(run, tmp_path, monkeypatch):
    monkeypatch.setattr(cli, "weights_dir", lambda: tmp_path / "weights")
    status, said, error = run("generate", PROMPT, "--out", tmp_path / "clip.mp4")
    assert (status, said, error.count("\n")) == (2, "", 1)
    assert "no wan-tiny in" in error


def test_the_module_runs_as_a_program(root):
    command = [sys.executable, "-m", "wan_core", "plan", "--steps", "2", "--json"]
    answer = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr
    assert len(json.loads(answer.stdout)["steps"]) == 2
