r"""Where the answer stands in a text about mathematics, and its plainest spelling.

Text is only split and compared here, in time linear in its length; what an answer means is asked of `math_worker.py`. Example::

    boxed(r"so \boxed{\frac{1}{2}}.")         # '\\frac{1}{2}'
    last_answer("The answer is **73**.")      # '73'
"""

import re

_BRACES = re.compile(r"\\(?:boxed|fbox)\s*\{|\\.|[{}]", re.DOTALL)
_STATED = re.compile(r"\banswer\b(?:\s+is|\s*[:=])[ \t]*+:?+[ \t]*+(?=(\S[^\n]{0,199}))", re.IGNORECASE)
_HASHES = re.compile(r"^####[ \t]*+(\S[^\n]{0,199})", re.MULTILINE)
_BOLD = re.compile(r"\*\*([^*\n]{0,99}\d[^*\n]{0,99})\*\*")
_NUMBER = re.compile(r"(?<![\w.])[-+\u2212]?\$?\d+(?:,\d{3})*(?:\.\d+)?(?:/\d+)?(?:\\?%)?")
_GROUPS = re.compile(r"(?<=\d)(?:\\[,!; ]|\{,\}|,\\!|[ \u00a0\u2009\u202f])(?=\d{3}(?!\d))")
_SEPARATED = re.compile(r"\+?(-?\d{1,3}(?:,\d{3})+(?:\.\d+)?)")
_MIXED = re.compile(r"([-+]?)(\d+)\s+(\d+)/(\d+)")
_POWER = re.compile(r"([-+]?\d+(?:\.\d+)?)[eE]([-+]?\d+)")
_TEXT = re.compile(r"\\(?:text|textbf|mathrm|mbox)\s*\{([^{}]*)\}")
_WORDS = re.compile(r"(?=.*[^\W\d_]{3})[^\W\d_]+(?:[ '-][^\W\d_]+)*")


THINK_TAG = re.compile(r"</?think>")


def opens_thought(prompt: str) -> bool:
    r"""Does a prompt end inside a think block, as those of many reasoning models do? Then its completion begins in thought.

    >>> opens_thought("<|assistant|>\n<think>\n"), opens_thought("Think, <think> so </think>")
    (True, False)
    """
    return prompt.rstrip().endswith("<think>")


def thoughts(text: str, opened: bool = False) -> list[tuple[int, int]]:
    """Where think blocks are, in characters, tags not included; `opened`: the text begins inside one.

    A block that was never closed lasts to the end; a first tag that closes makes the text begin inside.

    >>> thoughts("<think>6 + 7</think>13"), thoughts("6 + 7</think>13")
    ([(7, 12)], [(0, 5)])
    """
    found, start = [], 0 if opened else -1
    for number, tag in enumerate(THINK_TAG.finditer(text)):
        if tag[0] == "<think>":
            start = tag.end() if start < 0 else start
        elif start >= 0 or number == 0:
            found.append((max(start, 0), tag.start()))
            start = -1
    return found if start < 0 else [*found, (start, len(text))]


def conclusion(text: str) -> str | None:
    """What follows the last `</think>`: all of a text without a think block, None where a block was not closed."""
    _, _, after = text.rpartition("</think>")
    return None if "<think>" in after else after


def boxed(text: str) -> str | None:
    r"""The last `\boxed{...}` with balanced braces, without the box; "" where the last box never closes, None without a box."""
    opened: list[tuple[int, bool]] = []  # of every brace: where its content begins, is it a box
    content, found = None, 0
    for token in _BRACES.finditer(text):
        if token[0] == "}":
            if opened:
                begin, is_box = opened.pop()
                if is_box:
                    content, found = (begin, token.start()), token.end()
        elif token[0][-1] == "{" and token[0] != r"\{":
            opened.append((token.end(), len(token[0]) > 1))
    if any(is_box and begin > found for begin, is_box in opened):
        return ""
    return None if content is None else text[slice(*content)].strip()


def last_answer(text: str) -> str | None:
    """The last box; else the last of "answer is X", "#### X" and bold numbers; else the last number; None without any."""
    box = boxed(text)
    if box:
        return box
    stated = [match for pattern in (_STATED, _HASHES, _BOLD) for match in pattern.finditer(text)]
    if stated:
        last = max(stated, key=lambda match: match.start(1))
        return last[1].strip() if last.re is not _STATED else _sentence(last[1])
    numbers = [match[0] for match in _NUMBER.finditer(text)]
    return numbers[-1] if numbers else box


def last_line(text: str) -> str | None:
    """The last box; else the last of "answer is X" and "#### X"; else the last line that is not blank, of the last 200 characters."""
    box = boxed(text)
    if box:
        return box
    stated = [match for pattern in (_STATED, _HASHES) for match in pattern.finditer(text)]
    if stated:
        last = max(stated, key=lambda match: match.start(1))
        return last[1].strip() if last.re is not _STATED else _sentence(last[1])
    return box if box is not None else text.strip()[-200:].rpartition("\n")[2].strip() or None


def _sentence(rest: str) -> str:
    """What is stated, up to the end of its sentence: a formula between dollars, bold text, or the words before a full stop."""
    rest = rest.strip()
    for pair in (r"\$+([^$]+)\$+", r"\*\*([^*]+)\*\*", r"\\\((.+?)\\\)"):
        if marked := re.match(pair, rest):
            return marked[1].strip()
    return re.split(r"[.;!?](?:\s|$)|,\s|\s(?:as|because|since|so|which)\s", rest, maxsplit=1)[0].strip(" *")


def plain(answer: str) -> str:
    """The spelling that math-verify reads: no dollars, stars or full stop around it, no gaps in numbers, mixed numbers as sums.

    >>> plain("**$1{,}234$.**"), plain("1 1/2")
    ('1234', '1+1/2')
    """
    answer = answer.replace(r"\$", "").strip("*$ \t\r\n").rstrip(".").strip("*$ \t\r\n")
    for left, right in ((r"\(", r"\)"), (r"\[", r"\]")):
        answer = answer.removeprefix(left).removesuffix(right).strip()
    inner = boxed(answer)
    if inner and answer.startswith((r"\boxed", r"\fbox")):
        answer = inner
    answer = _GROUPS.sub("", answer.replace("\u2212", "-").replace("°", r"^\circ"))
    if separated := _SEPARATED.fullmatch(answer):
        return separated[1].replace(",", "")
    if mixed := _MIXED.fullmatch(answer):
        sign, whole, above, below = mixed.groups()
        return f"-({whole}+{above}/{below})" if sign == "-" else f"{whole}+{above}/{below}"
    if power := _POWER.fullmatch(answer):
        return f"{power[1]}\\cdot 10^{{{power[2]}}}"
    return answer


def bare(answer: str) -> str:
    r"""The spelling of an answer that is compared as text: no markup, quotes or full stop around it, single spaces, lower case.

    >>> bare(r"\text{Yes}."), bare('"MEET  ME"')
    ('yes', 'meet me')
    """
    return " ".join(_TEXT.sub(r"\1", answer).replace(r"\_", "_").split()).strip(" .$*`'\"").casefold()


def words(answer: str) -> str | None:
    r"""An answer in words, unwrapped from `\text{}` and in lower case; None for mathematics.

    >>> words(r"\text{Tuesday}"), words("xy"), words(r"\frac12")
    ('tuesday', None, None)
    """
    bare = _TEXT.sub(r"\1", answer).strip()
    return bare.casefold() if _WORDS.fullmatch(bare) else None
