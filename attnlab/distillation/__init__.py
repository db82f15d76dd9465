"""Distillation: what attention does at each site, nets that imitate it, and surgery.

Three steps: ``capture`` what a teacher's attention reads and writes, fit students to it
(``fit_students``), and put them in its place (``substitute``), with undo.
"""

from attnlab.distillation.capture import (
    Activations,
    capture,
    collect_activations,
    collect_lessons,
)
from attnlab.distillation.controls import CONTROLS, build_controls, length_ratio
from attnlab.distillation.cross import PaperCross
from attnlab.distillation.fit import (
    FIT,
    LRS,
    Fitted,
    cut_targets,
    fit_steps,
    fit_students,
    measure_errors,
)
from attnlab.distillation.nets import Student
from attnlab.distillation.sites import (
    KEEPS,
    METHODS,
    REPLACES,
    SITES,
    SIZES,
    STAND_INS,
    StudentSpec,
    find_site,
    student_width,
)
from attnlab.distillation.stand_ins import StandIn
from attnlab.distillation.students import (
    DecoderStudent,
    build_student,
    build_students,
    expected_student_weights,
)
from attnlab.distillation.surgery import (
    ReplacedSite,
    Substitution,
    load_students,
    save_students,
    substitute,
)
from attnlab.distillation.tuning import (
    CORRECTED,
    TUNES,
    add_corrections,
    free_to_learn,
    merge_corrections,
)

__all__ = [
    "CONTROLS", "CORRECTED", "FIT", "KEEPS", "LRS", "METHODS", "REPLACES", "SITES", "SIZES",
    "STAND_INS", "TUNES", "Activations", "DecoderStudent", "Fitted", "PaperCross", "ReplacedSite",
    "StandIn", "Student", "StudentSpec", "Substitution", "add_corrections", "build_controls",
    "build_student", "build_students", "capture", "collect_activations", "collect_lessons",
    "cut_targets", "expected_student_weights", "find_site", "fit_steps", "fit_students",
    "free_to_learn", "length_ratio", "load_students", "measure_errors", "merge_corrections",
    "save_students", "student_width", "substitute",
]  # fmt: skip
