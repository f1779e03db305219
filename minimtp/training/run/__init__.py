"""A training run in its folder. Begin with train.py, which starts, resumes and finishes a run.

start.py                    where a run begins: fresh, from its checkpoint, or from another run
quantized_start.py          training that starts from a packed model
teacher.py                  the model whose probabilities a run follows
loop.py                     the training loop, until the end or a signal (interrupt.py)
checkpoint.py, log.py       what a run writes (tensor_file.py: the format; plot.py: the curve)
folder.py                   loads the model of a run folder
teacher.py                  the model whose probabilities a run follows
distributed.py, mpirun.py   training in several processes
"""
