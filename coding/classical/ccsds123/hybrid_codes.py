"""The low-entropy codes of the hybrid entropy coder of CCSDS 123.0-B-2, section 5.4.3.3 and annex B.

A code turns words of input symbols into codewords. A symbol is a mapped quantizer index up to the code's limit L, or an
escape, L + 1, for a larger one. The words of a code are the leaves of a tree, whose inner nodes are the words that an
image may end within; for these the code has flush words.

The standard lists all codewords. It suffices to know how long they are: with the bits in reverse order, those of a code
are the canonical Huffman code for their lengths, of equal lengths the shorter input words first, then in the order of
symbols; so are the flush words of a code. `TREES` is all that is stored.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

SYMBOL_LIMITS = (12, 10, 8, 6, 6, 4, 4, 4, 2, 2, 2, 2, 2, 2, 2, 0)
"""L of each code: the largest mapped quantizer index that is a symbol of its own."""

THRESHOLDS = (
    303336,
    225404,
    166979,
    128672,
    95597,
    69670,
    50678,
    34898,
    23331,
    14935,
    9282,
    5510,
    3195,
    1928,
    1112,
    408,
)
"""T of each code: it is used if 2^14 times the accumulator is below T times the counter, for the last such code."""

TREES = (
    (
        "ABeEhhhiiiijjkkllkFhhhiiiijjkkllkffffgghhiihcccCffffFiiijjjjkkllmmlgghhiiiihddEggghhhhiijjkkjEggghhhhiijjkkj"
        "eeffe"
    ),
    (
        "ACEggghhiijjkkkeeFhhhiiiijkllkFhhhiiijkkllkffggiihCeeeFhhhiijjkklllfGiiijjjkllmmlGiiijjkkllmmmhhiiiCeeeFhhhi"
        "ijjkklllfGiiijjkkllmmmghhiiiccddeefGiiijjjjklmmlf"
    ),
    (
        "AbCdEggghhiikkkEggghhiikkkFghhiijjlllFhhhiijjlllgghiiCEfgghhiikkkEggghhiikkkeFhhhiijjlllFhhhiijjlllgghiiccEf"
        "gghhiikkkEggghhiikkkfff"
    ),
    (
        "ACDeGghhiikklGghhiikklggiiiddeegghbCdFfHhiijjllmghhjjkFfHhiijjllmghhjjkGghhiikklfhhhDeGghhiikklGghhiikklggii"
        "iEeGghhiikklfggiijeGghhiikklf"
    ),
    "ABDdFfggiillleggijjDFfggiilllFghhjjlmmGghhjjlmmhhjjkEeGghhjjlmmGghhjjmmmhhjkkFghhijllmGghhjjlmmhhibbddggh",
    (
        "AabCCEeGHijjmmniillnGhiillnijkFGHijjmmoiillnhhkkmFGhiillnhhkkmhijEFFHijjmmoiillnhhkkmGhiillnGhiillnjjkEFGhii"
        "llnhhkkmGhiillngjjlgHijjmmnieeg"
    ),
    (
        "BBCDcFGfhhllnggkkmFGfhhllnggklmiikFFeggkkmffjkmdhhjcEdGfhhllnfjjlggiDcFGfhhllnggklmeiikDEdGHgiimmohhllnfjjle"
        "eiikHgiimmogi"
    ),
    "ABaEEdHgiiooqHgijooqllnffllnEdfHgiioopllniikDEEdHgiioopHgijooqllnffllnGfhIikkpqrnnpfkkmcIikkpqrij",
    (
        "BCCCDDEEEEcfIIgjjojjolffkHHfiioiinHfiiokeHHfiiniinkeekGehhmHehhnjdGGehhnJhkkphmjddjFdggmdiFFdgglIgjjoglFGdgg"
        "mJgjjpgli"
    ),
    (
        "CCCCDDDDDEEbIfjjqflHIfjjqjjpflHHHfjjqijpijpHfjjqleHHfjjpijpleHHHfjjpijpijpleelGeiioekGGeiiohioHeiipkGGGeiioh"
        "iohhoGHeiiphiokdGGHeiiohiohiokddj"
    ),
    (
        "CCCCCCDDDaIIIfjkrjkrjjrIfjkrmIIIIfjkrjkrjjrjjrIIfjkrjkrmeIIfjkrjkrmeIIIfjkrjkrjjrmeHIIIfjkrjkrjjrjjqmeemHejj"
        "qemHHejjqijqelHHHejjqijqijqel"
    ),
    (
        "DDDDDDDDDDDDDDDEafgofgofJglltofJglltofJJJglltlltlltoffoffoffoffoJfkktfnJJfkktkktfnJJfkktkktfnIJJfkktkktkksfn"
        "IIJJfkktkktkkskksfnIIIJJJfkltkktkktkkskkskksJfkktneJJfkktkktn"
    ),
    (
        "DDDDDEEEEEEEEEEEEEEEEEEEEEFaghqggpggpggpggpggpggpggpggpggpggpggpggpggpggoggoIglmtgoIIglmtlmtgofgofgofgofgofg"
        "ofJglmtofIJglmulmtofIIIglmulmtlmtoffo"
    ),
    (
        "EEEEEEEEEEEEEEEEEEFFFFFFFFFFFFFFFFFFFFFFFFFFFGahiqhhphhphhphhphhphhphhphhphhphhphhphhphhphhphhphhphhphhpghpg"
        "hpghpghpghpghpghpghpghpghoghoghoghoghoghoghoghoghoggoggoggoggoggoggoggoggoHHgllrllrgo"
    ),
    (
        "FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFGGGGGGGGGGGGGGGGGGGGGGGGGGGGGGGGGGGGGGGGGGaijqiiqiiqiiqiiqiiqiiqi"
        "iqiiqiiqiiqiiqiiqiiqiiqiiqiiqiiqiiqiiqhiqhiqhiqhiqhiqhiqhiqhiqhiqhiqhiqhiqhiqhiqhiqhiqhiqhiqhiqhiqhiqhiqhiph"
        "iphiphiphiphiphiphiphiphiphiphiphiphiphiphiphiphiphiphiphiphiphhphhphhphhphhphhphhphhphhphhphhphhphhphhphhph"
        "hphhphhphhphhphhp"
    ),
    (
        "HHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHH"
        "HHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHH"
        "HHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHaiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiii"
        "iiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiii"
        "iiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiii"
    ),
)
"""The tree of each code in preorder: an inner node is a capital letter, A for a flush word of 1 bit, B for 2 bits, and
so on, and is followed by its subtrees for symbols 0 to L + 1; a leaf is a small letter, a for a codeword of 1 bit."""


class Codes(NamedTuple):
    """The codes as arrays over the nodes of all trees, int32. A node has a codeword if it is a leaf, else a flush word.

    Attributes:
        roots: (codes,), nodes.
        children: (nodes, 14), node for each next symbol; 0 for a leaf.
        parents: (nodes,), node of the word without its last symbol; roots are their own parents.
        symbols: (nodes,), last symbol of the word.
        lengths: (nodes,), bits of the codeword or flush word.
        words: (nodes,), the codeword or flush word.
        firsts: (2, codes, lengths), by number of bits: the first canonical codeword; then flush word.
        starts: (2, codes, lengths + 1), by number of bits: where `ordered` has the node of the first.
        ordered: (nodes,), nodes in canonical order, first those of codewords.
        endings: (codes, 256), node of the codeword that a byte ends with; 0 if that is longer than the byte.
    """

    roots: np.ndarray
    children: np.ndarray
    parents: np.ndarray
    symbols: np.ndarray
    lengths: np.ndarray
    words: np.ndarray
    firsts: np.ndarray
    starts: np.ndarray
    ordered: np.ndarray
    endings: np.ndarray


class _Node(NamedTuple):
    """A node of a tree: its word of symbols, its parent, whether it is a leaf, and the length of its word of bits."""

    symbols: tuple[int, ...]
    parent: int
    is_leaf: bool
    length: int


def parse_tree(text: str, limit: int, first: int = 0) -> list[_Node]:
    """Return the nodes of a tree of `TREES`, in preorder; the root is node `first`."""
    nodes: list[_Node] = []
    open_nodes: list[list[int]] = []  # inner nodes with subtrees to come: their index and the next symbol
    for letter in text:
        symbols: tuple[int, ...] = ()
        parent = first
        if open_nodes:
            parent, symbol = open_nodes[-1]
            symbols = (*nodes[parent - first].symbols, symbol)
            open_nodes[-1][1] += 1
            if symbol == limit + 1:
                open_nodes.pop()
        is_leaf = letter.islower()
        nodes.append(_Node(symbols, parent, is_leaf, ord(letter.lower()) - ord("a") + 1))
        if not is_leaf:
            open_nodes.append([first + len(nodes) - 1, 0])
    return nodes


@functools.cache
def load_codes() -> Codes:
    """Return the arrays of all codes."""
    nodes: list[_Node] = []
    roots = []
    for text, limit in zip(TREES, SYMBOL_LIMITS, strict=True):
        roots.append(len(nodes))
        nodes += parse_tree(text, limit, len(nodes))
    children = np.zeros((len(nodes), max(SYMBOL_LIMITS) + 2), np.int32)
    for index, node in enumerate(nodes):
        if node.symbols:
            children[node.parent, node.symbols[-1]] = index
    words, firsts, starts, ordered = _assign_words(nodes, roots)
    return Codes(
        roots=np.array(roots, np.int32),
        children=children,
        parents=np.array([node.parent for node in nodes], np.int32),
        symbols=np.array([node.symbols[-1] if node.symbols else 0 for node in nodes], np.int32),
        lengths=np.array([node.length for node in nodes], np.int32),
        words=words,
        firsts=firsts,
        starts=starts,
        ordered=ordered,
        endings=_endings(nodes, roots, words),
    )


def _endings(nodes: Sequence[_Node], roots: Sequence[int], words: np.ndarray) -> np.ndarray:
    endings = np.zeros((len(roots), 256), np.int32)
    for code, (root, end) in enumerate(itertools.pairwise([*roots, len(nodes)])):
        for index in range(root, end):
            if nodes[index].is_leaf and nodes[index].length <= 8:
                endings[code, words[index] :: 1 << nodes[index].length] = index
    return endings


def _assign_words(
    nodes: Sequence[_Node], roots: Sequence[int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return `words`, `firsts`, `starts` and `ordered` of `Codes`."""
    longest = max(node.length for node in nodes)
    words = np.zeros(len(nodes), np.int32)
    firsts = np.zeros((2, len(roots), longest + 1), np.int32)
    starts = np.zeros((2, len(roots), longest + 2), np.int32)
    ordered: list[int] = []
    for kind in range(2):
        for code, (root, end) in enumerate(itertools.pairwise([*roots, len(nodes)])):
            chosen = [index for index in range(root, end) if nodes[index].is_leaf == (kind == 0)]
            chosen.sort(key=lambda index: (nodes[index].length, len(nodes[index].symbols), nodes[index].symbols))
            lengths = [nodes[index].length for index in chosen]
            canonical, firsts[kind, code] = _canonical(lengths, longest)
            starts[kind, code] = len(ordered) + np.searchsorted(lengths, np.arange(longest + 2))
            for index, word in zip(chosen, canonical, strict=True):
                words[index] = int(f"{word:0{nodes[index].length}b}"[::-1], 2)
            ordered += chosen
    return words, firsts, starts, np.array(ordered, np.int32)


def _canonical(lengths: Sequence[int], longest: int) -> tuple[list[int], np.ndarray]:
    """Return the canonical Huffman code for sorted lengths, and its first codeword of each length."""
    words: list[int] = []
    firsts, word = np.zeros(longest + 1, np.int32), 0
    for length, count in enumerate(np.bincount(lengths, minlength=longest + 1)):
        firsts[length] = word
        words += range(word, word + count)
        word = (word + count) << 1
    return words, firsts
