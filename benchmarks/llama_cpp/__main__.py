"""Does llama.cpp read our control vectors, and do what we do with them? Its logits beside ours, with random vectors at every block that it has a place for.

    python -m benchmarks.llama_cpp --binary BUILD/bin/control_vector --gguf smollm2.gguf [--model artifacts/models/smollm2] [--out FILE.json]

llama.cpp is no dependency. Its sources come with the source distribution of llama-cpp-python (vendor/llama.cpp); in them, once::

    cp control_vector.cpp examples/ && cat >> examples/CMakeLists.txt   # add_executable(control_vector control_vector.cpp)
                                                                        # target_link_libraries(control_vector PRIVATE llama-common llama)
    cmake -B BUILD -DCMAKE_BUILD_TYPE=Release -DLLAMA_BUILD_TOOLS=OFF && cmake --build BUILD --target control_vector
    python convert_hf_to_gguf.py --outtype f32 --outfile smollm2.gguf artifacts/models/smollm2
"""

import argparse
import os
import subprocess
import tempfile
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch

import torch

import latentreason as lr
from benchmarks.report import machine, write
from latentreason.activations.editing import additions, editing
from latentreason.activations.sites import Site
from latentreason.vectors.steering_vector import SteeringVector, VectorSet

STRENGTHS = (0.0, 1.0, -2.0)
TEXT = "The farmer has 17 sheep and"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", type=Path, required=True)
    parser.add_argument("--gguf", type=Path, required=True)
    parser.add_argument("--model", default="artifacts/models/smollm2")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    lm = lr.LM.from_pretrained(args.model, dtype=torch.float32)
    ids, drawn = lm.tokenizer(TEXT)["input_ids"], torch.Generator().manual_seed(0)
    n_layers, d_model = lm.model.config.num_hidden_layers, lm.model.config.hidden_size
    vectors = VectorSet(tuple(SteeringVector.of(Site(layer), 0.5 * torch.randn(d_model, generator=drawn), "random", 1) for layer in range(1, n_layers)), {})
    figures: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        file = Path(folder) / "vector.gguf"
        vectors.to_gguf(file, model_type=lm.model.config.model_type)
        plain = lm.model(torch.tensor([ids])).logits[0, -1]
        for strength in STRENGTHS:
            theirs = subprocess.run([args.binary, args.gguf, file, str(strength), *map(str, ids)], capture_output=True, text=True, check=True).stdout.split()
            with editing(lm, additions(vectors.values(), strength)):
                ours = lm.model(torch.tensor([ids])).logits[0, -1]
            difference = (ours - torch.tensor([float(x) for x in theirs])).abs().max()
            figures.append({"strength": strength, "difference": float(difference), "effect": float((ours - plain).abs().max())})
    lines = ["| strength | largest difference of a logit, llama.cpp and ours | largest effect of the vectors on a logit |", "|---|---|---|"]
    lines += [f"| {f['strength']:g} | {f['difference']:.5f} | {f['effect']:.2f} |" for f in figures]
    write({"machine": machine(), "blocks": len(vectors), "tokens": len(ids), "strengths": figures}, "\n".join(lines), args.out)


if __name__ == "__main__":
    main()
