r"""Prompt templates that tasks share, and the question alone for problems of one's own.

A template is text that holds `{question}` once. It is filled by replacement, never by `str.format`: questions hold braces. Worked examples
are our own, none is from a benchmark. Example::

    BOXED.replace("{question}", "What is 6 + 7?")
"""

from collections.abc import Mapping, Sequence

QUESTION = "{question}"
PLAIN = QUESTION
BOXED = QUESTION + "\nPlease reason step by step, and put your final answer within \\boxed{}."

# Prompts that public models were trained or measured with; whoever publishes a comparison needs them to the letter.
ABEL = f"Question:\n{QUESTION}\nAnswer:\nLet's think step by step.\n"
"""SimpleRL-Zoo's simple prompt (arXiv 2503.18892), for models that follow no instructions."""
ORZ = (
    "A conversation between User and Assistant. The User asks a question, and the Assistant solves it. The Assistant first thinks about the reasoning process in the mind and then "
    "provides the User with the answer. The reasoning process is enclosed within <think> </think> and answer is enclosed within <answer> </answer> tags, respectively, i.e., "
    "<think> reasoning process here </think> <answer> answer here </answer>. User: You must put your answer inside <answer> </answer> tags, i.e., <answer> answer here </answer>. "
    f"And your final answer will be extracted automatically by the \\boxed{{}} tag.\nThis is the problem:\n{QUESTION}\nAssistant: <think>"
)
"""Open-Reasoner-Zero's prompt (arXiv 2503.24290); it opens the think block, so a completion without `</think>` has no answer."""
QA = f"Answer the following question:\nQ: {QUESTION}\nA:"
"""What Venhoff et al. (arXiv 2510.07364) ask the base models."""

DEFAULT: Mapping[str, str] = {"plain": PLAIN, "boxed": BOXED}
"""Styles of a problem whose task is not among `TASKS`: one that you wrote."""


def few_shot(examples: Sequence[tuple[str, str]]) -> str:
    """A template of worked examples (question, solution), for models that only continue text."""
    shown = [f"Problem: {question}\nSolution: {solution}\n\n" for question, solution in examples]
    return "".join(shown) + f"Problem: {QUESTION}\nSolution:"


def opener(template: str) -> str:
    """What stands on the line of the question, before it: a completion that writes it anew asks itself the next question. May be empty.

    >>> opener(few_shot([("2 + 2?", "4")])), opener(BOXED)
    ('Problem:', '')
    """
    return template.partition(QUESTION)[0].rpartition("\n")[2].strip()


GRADE_SCHOOL = (
    (
        "A bakery sells muffins in boxes of 6. On Friday it sold 14 boxes and 5 single muffins. How many muffins did it sell?",
        r"The boxes hold 14 * 6 = 84 muffins. Together with the single ones that is 84 + 5 = 89 muffins. The answer is \boxed{89}.",
    ),
    (
        "Lena has $50. She buys two books for $12 each and spends half of the rest on lunch. How many dollars are left?",
        r"The books cost 2 * 12 = 24 dollars, so 50 - 24 = 26 dollars are left. Half of that is 26 / 2 = 13 dollars for lunch, which leaves 26 - 13 = 13 dollars. "
        r"The answer is \boxed{13}.",
    ),
    (
        "A train covers 180 miles in 3 hours. At the same speed, how many minutes does it need for 45 miles?",
        r"The train goes 180 / 3 = 60 miles an hour, which is one mile a minute. For 45 miles it needs 45 minutes. The answer is \boxed{45}.",
    ),
    (
        "In a class of 32 pupils, 3 out of every 8 walk to school and the others take the bus. How many take the bus?",
        r"There are 32 / 8 = 4 groups of 8, so 4 * 3 = 12 pupils walk. The others are 32 - 12 = 20 pupils. The answer is \boxed{20}.",
    ),
)
"""Word problems with whole numbers."""

COMPETITION = (
    (
        r"What is the sum of the solutions of $x^2 - 7x + 10 = 0$?",
        r"The left side factors as $(x - 2)(x - 5)$, so the solutions are $2$ and $5$. Their sum is $2 + 5 = 7$. The answer is $\boxed{7}$.",
    ),
    (
        "Two fair six-sided dice are rolled. What is the probability that the numbers shown differ by exactly $1$?",
        r"Of the $36$ rolls, those that differ by $1$ are $(1,2), (2,3), (3,4), (4,5), (5,6)$ and their mirror images, $10$ in all. The probability is "
        r"$\frac{10}{36} = \frac{5}{18}$. The answer is $\boxed{\frac{5}{18}}$.",
    ),
    (
        r"A circle has circumference $12\pi$. What is its area?",
        r"From $2\pi r = 12\pi$ we get $r = 6$. The area is $\pi r^2 = 36\pi$. The answer is $\boxed{36\pi}$.",
    ),
    (
        r"What is the remainder when $3^{20}$ is divided by $7$?",
        r"Powers of $3$ modulo $7$ repeat with period $6$: $3, 2, 6, 4, 5, 1$. Since $20 = 3 \cdot 6 + 2$, the remainder is that of $3^2 = 9$, which is $2$. "
        r"The answer is $\boxed{2}$.",
    ),
)
"""Competition problems, with formulas."""
