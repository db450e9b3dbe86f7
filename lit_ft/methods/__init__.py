"""Methods: what is optimised."""

from lit_ft.methods.image_classifier import ImageClassifier as ImageClassifier
from lit_ft.methods.supervised_fine_tuning import SupervisedFineTuning as SupervisedFineTuning
from lit_ft.methods.text_classifier import TextClassifier as TextClassifier
