"""Distillation: what attention does at each site, nets that imitate it, and surgery.

Three steps: ``capture`` what a teacher's attention reads and writes, fit students to it
(``fit_students``), and put them in its place (``substitute``), with undo.
"""

from attnlab.distillation.base import CrossStudent, SelfStudent, Student
from attnlab.distillation.capture import (
    ActivationBatch,
    Activations,
    Captured,
    LiveActivations,
    capture,
    collect_activations,
)
from attnlab.distillation.controls import CONTROLS, build_controls, length_ratio
from attnlab.distillation.cross import ExtractorCross, LowRankCross, PaperCross, PerQueryCross
from attnlab.distillation.fit import LRS, Fitted, choose_lr, fit_arms, fit_students
from attnlab.distillation.measure import StudentErrors, measure_errors
from attnlab.distillation.sites import (
    KEEPS,
    LAYOUTS,
    METHOD_NAMES,
    METHODS,
    METHODS_AT,
    REPLACES,
    SITES,
    SIZES,
    SKIPS,
    StudentSpec,
    find_site,
    student_width,
)
from attnlab.distillation.steps import FIT, FitLog, fit_steps
from attnlab.distillation.students import (
    DecoderStudent,
    EncoderStudent,
    build_student,
    build_students,
    expected_student_weights,
)
from attnlab.distillation.surgery import (
    ReplacedSite,
    ReplacedSublayer,
    Substitution,
    load_students,
    save_students,
    substitute,
)

__all__ = [
    "CONTROLS",
    "FIT",
    "KEEPS",
    "LAYOUTS",
    "LRS",
    "METHODS",
    "METHODS_AT",
    "METHOD_NAMES",
    "REPLACES",
    "SITES",
    "SIZES",
    "SKIPS",
    "ActivationBatch",
    "Activations",
    "Captured",
    "CrossStudent",
    "DecoderStudent",
    "EncoderStudent",
    "ExtractorCross",
    "FitLog",
    "Fitted",
    "LiveActivations",
    "LowRankCross",
    "PaperCross",
    "PerQueryCross",
    "ReplacedSite",
    "ReplacedSublayer",
    "SelfStudent",
    "Student",
    "StudentErrors",
    "StudentSpec",
    "Substitution",
    "build_controls",
    "build_student",
    "build_students",
    "capture",
    "choose_lr",
    "collect_activations",
    "expected_student_weights",
    "find_site",
    "fit_arms",
    "fit_steps",
    "fit_students",
    "length_ratio",
    "load_students",
    "measure_errors",
    "save_students",
    "student_width",
    "substitute",
]
