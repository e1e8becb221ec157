"""The student (Section 4.4): a picture's 3D pose, taught by 2D landmarks and a teacher.

``train.train_and_evaluate(config, workdir)`` trains one, ``predict.PoseEstimator``
uses it on other pictures.
"""
