"""Six questions a reader can answer at the end of the workbook; at its start, a self-check."""

from attnlab.teaching.quiz import Option, Question

SELF_CHECK: tuple[Question, ...] = (
    Question(
        "**The Markov property.** When is a source of tokens a Markov chain on its states?",
        [
            Option(
                "When successive tokens are independent.",
                "Independence is the special case in which even the state does not matter.",
            ),
            Option(
                "When the present state alone fixes the chances of what comes next.",
                "The past matters only through the state. If the whole prefix is the state, text "
                "fits by construction. Notebook 01, section 1.",
                is_right=True,
            ),
            Option(
                "When only the last token matters.",
                "That is so if the state is one token. A state may hold more: the last k tokens, "
                "or the whole prefix.",
            ),
        ],
    ),
    Question(
        "**The cost of attention.** A sequence becomes twice as long. The table of attention "
        "weights of one head then has about ...",
        [
            Option("as many entries.", "Each position weighs every earlier one, so it grows."),
            Option("twice as many entries.", "Each row grows, and there are more rows, too."),
            Option(
                "four times as many entries.",
                "T positions times up to T earlier ones: quadratic. The four maps of attention, "
                "$4 d^2$ weights, do not grow at all. Notebook 02.",
                is_right=True,
            ),
        ],
    ),
    Question(
        "**The critical path.** Mixer A has the shorter chain of operations that must wait for "
        "each other; mixer B needs fewer operations in all. Which one is faster?",
        [
            Option("A.", "Only if there is hardware enough to do all the rest side by side."),
            Option("B.", "Only if the operations are done one after the other, or nearly so."),
            Option(
                "It depends on the hardware and on the sizes.",
                "Depth bounds the time with unlimited hardware, work bounds it with one worker. "
                "Real machines lie between, so one measures. Notebook 03 counts the work, "
                "notebook 05 traces the path and measures.",
                is_right=True,
            ),
        ],
    ),
    Question(
        "**Teacher and student.** In distillation a student is trained on a teacher's "
        "activations and not on text alone. Why?",
        [
            Option(
                "The teacher's labels contain no errors.",
                "They contain the teacher's errors. What they add is detail.",
            ),
            Option(
                "They tell each part what to produce, everywhere, and not only the final token.",
                "The trained teacher is a dense target for each replaced part, so a small part "
                "can be fitted alone. The second paper says this is necessary; a later "
                "notebook, on distillation, tests it.",
                is_right=True,
            ),
            Option(
                "The student then needs no data.",
                "The activations are computed on data, and there are far more of them.",
            ),
        ],
    ),
    Question(
        "**A replacement.** Which of these must a part that takes the place of "
        "self-attention in a decoder reproduce?",
        [
            Option(
                "The attention weights.",
                "Nothing downstream sees them. The Extractor has none that depend on content.",
            ),
            Option(
                "The shape, vectors in and out, and the direction: no output from later tokens.",
                "Same width, one vector for each position, any allowed length, and causal. What "
                "it computes inside is free. Notebook 02, section 3, and notebook 03, section 1, "
                "show the direction.",
                is_right=True,
            ),
            Option(
                "The number of weights.",
                "It may differ, and SHE's is far larger; an honest comparison then has to say so.",
            ),
        ],
    ),
    Question(
        "**BLEU.** What is the score of a translation made of?",
        [
            Option(
                "How often its runs of 1 to 4 words occur in a reference, times a penalty if it "
                "is too short.",
                "The geometric mean of four clipped precisions, times the brevity penalty. A "
                "later notebook, on translation, builds it.",
                is_right=True,
            ),
            Option(
                "The cross-entropy of the reference.",
                "That scores the model's chances; BLEU scores the text that came out.",
            ),
            Option(
                "Judgements of readers.",
                "BLEU was made to agree with them on average, but it only counts words.",
            ),
        ],
    ),
)
