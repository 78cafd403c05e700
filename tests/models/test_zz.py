import torch, time
t=time.time()
def test_x(make_tiny, tiny_tokenizer):
    from latentreason.models.language_model import LM
    from latentreason.models.pair import ModelPair
    from latentreason.models.decoding import Batch
    from latentreason.sampling.noise import gumbel
    from latentreason.hybrid.decode import Hybrid
    from latentreason.routing.controls import always
    from latentreason.routing.oracle import on_divergence
    for fam in ("llama","qwen2","gpt2"):
        a=LM(make_tiny(fam),tiny_tokenizer,"base"); b=LM(make_tiny(fam,1),tiny_tokenizer,"rl")
        p=ModelPair(a,b)
        bt=Batch([[1,5,6],[1,7,8,9,10]],torch.tensor([0]*20+[1]*20),torch.arange(40),1.0,1.0,30,gumbel)
        t=time.time(); d=a.decode(bt); print(fam,d.length.tolist(), time.time()-t)
        for r in (always(),on_divergence("js",.3)):
            t=time.time(); d=Hybrid(p,r).decode(bt); print(d.length.tolist(), {k:(v.dtype) for k,v in d.records.items()}, time.time()-t)
            m=torch.arange(30)[None]<d.length[:,None]
            print(d.records["changed"][m].float().mean(), d.records["divergence"][m].quantile(torch.tensor([0.,.25,.5,.75,1])))
