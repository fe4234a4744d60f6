"""The map: where does joint selection train better than independent selection, and why?

The data are pairs of text, German and English, of the Ding dictionary: text with text is
contrastive learning as image with text is, and a step of 512 takes some hundredths of a second on
one core. In the order of use: ``dictionary`` makes the data, ``learner`` is what is trained,
``sources`` are the pool and its order, ``references`` trains the references, ``arms`` choose,
``runs`` trains one arm, ``python -m bench.joint`` trains many, and ``report`` prints and draws what
they showed. docs/evidence.md says what that is.
"""
