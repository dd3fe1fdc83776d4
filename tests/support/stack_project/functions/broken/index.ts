throw new Error('this function can not even be loaded')
