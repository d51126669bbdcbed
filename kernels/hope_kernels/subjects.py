"""Every operation that has a fused form."""

from hope_kernels.associative_memory import subjects as associative_memory
from hope_kernels.delta_memory import subjects as delta_memory
from hope_kernels.low_rank_read import subjects as low_rank_read
from hope_kernels.memory_step import subjects as memory_step
from hope_kernels.sampling import subjects as sampling
from hope_kernels.slab_rows import subjects as slab_rows
from hope_kernels.subject import Subject
from hope_kernels.window_attention import subjects as window_attention

SUBJECTS: dict[str, Subject] = {
    subject.name: subject
    for module in (
        slab_rows,
        memory_step,
        delta_memory,
        associative_memory,
        low_rank_read,
        window_attention,
        sampling,
    )
    for subject in module.SUBJECTS
}
