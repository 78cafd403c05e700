"""Run as a worker: math-verify on the whole text, as its README uses it, for the comparison in test_math_grading.py."""

from latentreason.tasks.math_worker import serve


def compare(text: str, gold: str) -> str:
    from math_verify import parse, verify

    return "correct" if verify(parse(f"${gold}$"), parse(text)) else "wrong"


if __name__ == "__main__":
    serve(compare)
