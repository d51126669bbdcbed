"""Every operation that has a fused form."""

from hope_kernels.associative_memory import subjects as associative_memory
from hope_kernels.memory_step import subjects as memory_step
from hope_kernels.slab_rows import subjects as slab_rows
from hope_kernels.subject import Subject

SUBJECTS: dict[str, Subject] = {
    subject.name: subject
    for subject in (*slab_rows.SUBJECTS, *memory_step.SUBJECTS, *associative_memory.SUBJECTS)
}
