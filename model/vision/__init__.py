"""Image classification: SIGNS, digits, MNIST, FashionMNIST, CIFAR-10, and any folder of images."""
