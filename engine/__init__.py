"""What makes the programs in the root go. You may read it; no exercise lives here.

Its rooms, each of which may use those before it:
    common, options  one kind of error, files, the console; every option once. No torch.
    model/           a language model: loading, reading, sampling, scoring, several processes
    course/          the student's functions, the hints, and the exact toys with their pictures
    measuring/       figures about texts: metrics, the best possible policy, the judge, tables
    pages/           what is read in a browser or as a picture
    training/        the run itself: batch, trainer, credit, KL control, monitor, checkpoints
Nothing here imports from the root.
"""
