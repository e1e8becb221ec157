"""Every field of a run with its default.

An experiment (``configs/<name>.py``) starts from these values and changes some of them.
``--config.x.y=z`` changes one field from the shell.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """All fields; the values are those of the paper (Section 5.1) where it has one."""
    config = ConfigDict()
    config.seed = 0
    config.cpu_devices = 1  # virtual CPU devices to train on; 0: one per core
    # Memory of one step is used again in the next: faster where a step needs a GB on a
    # CPU, no gain for small networks. Memory then stays at its peak.
    config.keep_freed_memory = True
    config.data = _data()
    config.teacher = _teacher()
    config.student = _student()
    config.predict = _predict()
    config.lift = _lift()
    return config


def _data() -> ConfigDict:
    data = ConfigDict()
    # 'mannequin' (rendered), 'mocap' (projected motion, landmarks only), 'sequence'
    # (landmarks with their 3D), 'landmarks' (the folder below), or the format of own
    # labels: 'coco', 'mpii', 'h36m', 'lsp', 'dlc', 'sleap', 'yolo', 'label_studio'; or
    # 'tracks': what a tracker predicted for videos, without pictures.
    data.name = "mannequin"
    data.data_dir = ""  # where TFDS keeps prepared data; '': ~/.cache/nrsfm-distill
    data.seed = 0  # of the rendering, the projection and the hold-out
    # Own labels and the folder of their pictures; '': where the format keeps them,
    # beside the labels for most. Without labels for validation pictures are held out.
    data.annotations = ""
    data.annotations_val = ""
    data.images = ""
    data.images_val = ""  # '': images
    # A built-in one, JSON or its file; without 'joints' it changes what it names in the
    # skeleton of the labels, e.g. '{"left_right": [["earA", "earB"]], "root": "neck"}'.
    data.skeleton = ""  # '': that of the labels
    data.joint_names = ""  # JSON or its file: {"joint of the file": "of the skeleton"}
    data.min_joints = 1  # persons with fewer labelled joints are left out
    # Landmarks beyond the picture; or 'drop': they are unlabelled; or 'keep': up to one
    # width or height away.
    data.outside = "error"
    # Where the labels have the centre of the first pixel: '0', '0.5' or '1'.
    data.pixel_centre = ""  # '': as the format says
    data.category = ""  # name or id of the only category to read; '': all alike
    data.min_score = 0.6  # landmarks with a lower likelihood or score are unlabelled
    data.picture_size = (0, 0)  # of 'tracks' whose coordinates are parts of the picture
    data.ground_truth = ""  # .npz with 3D, for evaluation only
    data.ground_truth_val = ""
    # The square crop: around the landmarks or the annotated box, with this margin.
    data.box = "landmarks"  # or 'annotation'
    data.padding = 1.25
    # Further sources of training pictures, JSON or its file: {"name": {"name": "coco",
    # "annotations": "more.json", ...}}, the fields of data.
    data.extra_sources = ""
    data.weight = 1.0  # how often this source is drawn, against the extra ones
    _made(data)
    return data


def _made(data: ConfigDict) -> None:
    # Of 'landmarks': a folder of .npy files, read by the row where it is large; see
    # input_pipeline/sources/memory_mapped.py.
    data.landmarks = ""
    # mannequin and mocap: how many samples, seen from where.
    data.mocap_file = ""  # .npz or .bvh with 3D motion; the file of a 'sequence'
    data.sequence = ""  # for 'sequence': which one of mocap_file
    data.num_train = 4000  # 'mocap', 'tracks': 0 takes all frames
    data.num_val = 500  # of own pictures: the most that are held out
    data.render_size = 128  # pixels
    data.elevation_deg = (-10.0, 30.0)


def _teacher() -> ConfigDict:
    teacher = ConfigDict()
    teacher.dictionary_sizes = (256, 128, 64, 32)  # the paper's go on: 16, 8
    teacher.ista_steps = 1
    teacher.sparsity_weight = 0.005  # lambda of Eq. 4 for unit-norm dictionary columns
    teacher.learning_rate = 0.01
    teacher.batch_size = 128
    teacher.steps = 6000
    teacher.depth_sign = 1  # +1 or -1: the one bit that 2D cannot tell
    # "LWrist is nearer than RWrist in image 12; ..." sets the sign from what is seen.
    teacher.depth_sign_cue = ""
    teacher.em = ConfigDict()
    # The weight of the EM depth falls from 1 to the floor in this part of the steps.
    teacher.em.guide_fraction = 0.4  # 0: no EM
    teacher.em.guide_floor = 0.5
    teacher.em.components = 10  # Gaussians; 1: a single one
    teacher.em.num_samples = 4000
    # 'auto': level views, or raised, above, any rotation where clearly likelier;
    # 'upright': these elevations with even yaws; 'free': any rotation (the sign of
    # depth stays open).
    teacher.em.views = "auto"
    teacher.em.num_yaws = 24
    teacher.em.elevations_deg = (-10.0, 0.0, 10.0, 20.0, 30.0)
    teacher.em.noise = 0.005  # of the landmarks, patch units; exact ones allow less
    teacher.checkpoint_every = 1000
    teacher.log_every = 100
    return teacher


def _student() -> ConfigDict:
    student = ConfigDict()
    # Rows of the table in pose_jax/loss.py; one student is trained for each.
    student.modes = ("weaksup_bs", "distill")
    # The depth that they learn from: the 'network''s; or the 'best' known, of network
    # and EM together, sharpened by the proportions of the bones.
    student.labels = "network"
    # One network for all modes but 'supervised': the same x and y, a depth for each.
    student.share_backbone = False
    _network(student)
    student.batch_size = 32
    student.steps = 150_000
    student.optimizer = "adam"  # or 'muon' for the kernels between first and last
    student.learning_rate = 1e-3
    student.end_learning_rate = 1e-5
    student.schedule = "plateau"  # drops when the validation loss saturates; 'cosine'
    student.patience = 3  # evaluations without improvement before the drop
    student.code_l1_weight = 0.15  # of Eq. 14, for unit-norm dictionary columns
    student.xy_weight = 1.0
    student.heat_weight = 0.0  # of the heat's cross-entropy; not in the paper
    student.depth_weight = 1.0  # of the depth loss in Eq. 15
    # Times the factor that makes the depth's gradient as large as that of 'weaksup_bs',
    # so that modes compare; the paper has no such factor.
    student.match_depth_gradients = True
    student.residual_offset = 0.1  # c of 'weaksup_residual': 1 / (residual + c)
    student.augment = ConfigDict()
    student.augment.scale = 0.25
    student.augment.rotation_deg = 60.0
    student.augment.rotation_prob = 0.6
    student.augment.flip_prob = 0.5
    student.augment.colour = 0.2
    student.eval_every = 2000
    student.checkpoint_every = 2000
    student.log_every = 50
    student.num_devices = 0  # 0: all
    student.sync_batch_norm = True  # over the whole batch; or each device by itself
    return student


def _network(student: ConfigDict) -> None:
    # 'resnet' with a volume of heat; or with maps of depth 'pyramid', small, and
    # 'efficientnet', which starts from weights learned from photographs.
    student.network = "resnet"
    student.resnet_layers = 50
    student.width = 1.0
    student.stem = "imagenet"
    student.image_size = 256
    student.heatmap_size = 64
    student.depth_bins = 64
    student.deconv_channels = 256
    student.num_deconv = 3
    student.dtype = "float32"  # of the network's activations; or 'bfloat16'
    # Of these two: directions of the body that the last layer depends on; 0: none.
    student.yaw_classes = 0
    # Weights to start from, of a ResNet or EfficientNet-Lite0: .safetensors, .npz, .pth
    student.pretrained = ""


def _predict() -> ConfigDict:
    predict = ConfigDict()
    predict.images = ""  # a picture, a folder, a pattern, a video; or with commas
    predict.annotations = ""  # JSON with boxes; '': the body fills the picture
    predict.mode = ""  # which student; '': 'distill', or the only one
    predict.out = ""  # folder of the results; '': predictions/ in the workdir
    predict.batch_size = 32
    # Each picture twice, once mirrored: a better pose; read by the evaluation as well.
    predict.mirror = False
    # The likeliest pose under the teacher's shapes, given the network's; likewise.
    predict.shapes = False
    predict.every = 1  # n: each n-th frame of a video
    predict.overlays = True  # the skeleton drawn on each picture
    # "Nose-TailBase=120": two joints and their distance in millimetres, of one body or
    # bodies of one size; then the poses are also in millimetres.
    predict.length = ""
    predict.viewer_samples = 400  # poses in viewer.html at most; 0: no viewer
    predict.formats = ("stablehlo", "saved_model")  # of --stage=export
    return predict


def _lift() -> ConfigDict:
    lift = ConfigDict()
    # Files of a tracker: a file, a folder, a pattern; or with commas. '': the landmarks
    # that the teacher was trained on.
    lift.tracks = ""
    # From so many detections of 'tracks' on, the shapes are fitted again, to these as
    # well; 0: never.
    lift.adapt = 1000
    lift.images = ""  # their pictures or videos, to be drawn on; '': none
    lift.out = ""  # folder of the results; '': lifted/ in the workdir
    lift.length = ""  # as predict.length
    lift.focal = 0.0  # focal length in pixels; 0: not known; inf: weak perspective
    lift.principal = ()  # pixel on the optical axis; (): the middle of the picture
    lift.overlays = True  # where there are images
    lift.viewer_samples = 400  # poses in viewer.html at most; 0: no viewer
    return lift
