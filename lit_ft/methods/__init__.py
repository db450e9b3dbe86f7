"""Methods: what is optimised."""

from lit_ft.methods.image_classifier import ImageClassifier as ImageClassifier
from lit_ft.methods.text_classifier import TextClassifier as TextClassifier
